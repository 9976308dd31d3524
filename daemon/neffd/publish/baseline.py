"""What was in a cache directory before neffd first started on it: noted as that, also where it could not be read then.

What somebody else compiled years ago must not count as made here because a folder was opened later. All of it blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from neff.keys import ModuleName
from neffd.store.index import Index, Known
from neffd.store.root import CacheRoot, FileFacts

EVERYTHING = "."


class Baseline:
    """The first look at one cache directory, whose outcome is in the index."""

    def __init__(self, root: CacheRoot, index: Index) -> None:
        self._root = root
        self._index = index
        self._unread: tuple[float, frozenset[str]] | None = None

    def note_once(self, names: Iterable[ModuleName], closed: Iterable[str]) -> None:
        """On the first start, note what is there; `closed` are paths below the directory that cannot be listed.

        Raises sqlite3.Error.
        """
        if self._index.has_baseline(self._root.path):
            return
        ready, unread = [], [*closed]
        for name in names:
            neff = self._root.ready_neff(name)
            if neff is not None:
                ready.append((name, neff))
            elif self._root.is_closed(name):
                unread.append(str(name))
        self._index.baseline_blocking(self._root.path, ready, unread)

    def find_old(self, unknown: Mapping[ModuleName, FileFacts]) -> dict[ModuleName, Known]:
        """Of ready entries that nothing is noted of, those that were there before, unread; noted as that from now on.

        Raises sqlite3.Error.
        """
        if self._unread is None:
            self._unread = self._index.unread_at_baseline(self._root.path)
        baseline_at, unread = self._unread
        old = {
            name: neff
            for name, neff in unknown.items()
            if not unread.isdisjoint((EVERYTHING, name.namespace, str(name))) and self._is_older(name, baseline_at)
        }
        if not old:
            return {}
        self._index.note_existing(self._root.path, old)
        return self._index.known_of(self._root.path, old)

    def _is_older(self, name: ModuleName, than_s: float) -> bool:
        try:
            return self._root.is_older(name, than_s)
        except OSError:  # gone, or closed again: there will be another look
            return False
