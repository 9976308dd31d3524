"""Which entries a directory holds, and when that may have changed; whoever asks looks at the disk."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path

from neff import keys
from neff.keys import ModuleName
from neffd.remotes.directory_publish import is_ready
from neffd.store import fsops

# No file system's clock is coarser.
_TICK_S = 2.0


class Listing:
    """Everything blocks; called from any thread."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._ready: dict[str, set[str]] = {}
        self._unready: dict[str, set[str]] = {}
        self._finished: dict[str, int] = {}
        self._stamps: dict[str, tuple[Hashable, float]] = {}

    def version(self, namespace: str) -> Hashable:
        """Another value whenever the keys may have changed."""
        try:
            facts = (self._root / namespace).stat()
        except FileNotFoundError:
            return None
        stamp = (facts.st_ino, facts.st_mtime_ns, facts.st_nlink)
        now = time.monotonic()
        if self._stamps.get(namespace, (None, 0.0))[0] != stamp:
            self._stamps[namespace] = (stamp, now)
        # Two changes within one tick of the file server's clock look like one: a new stamp is never "unchanged".
        is_young = now - self._stamps[namespace][1] < _TICK_S
        # A ready mark changes its entry's folder, not the namespace.
        mark = keys.ready_mark(namespace)
        unready = list(self._unready.get(namespace, ()))
        finished = [key for key in unready if is_ready(self._root / namespace / key, mark)]
        return (stamp, frozenset(finished), self._finished.get(namespace, 0), now if is_young else 0.0)

    def namespaces(self) -> list[str]:
        """The compiler versions that there are folders of."""
        return list(_folders(self._root, keys.is_namespace))

    def keys(self, namespace: str) -> list[str]:
        """Every entry that is ready; only those are looked at that were not ready before."""
        present = set(_folders(self._root / namespace, keys.is_module_key))
        before, mark = self._unready.get(namespace, set()), keys.ready_mark(namespace)
        known = self._ready.get(namespace, set()) & present
        if not present and namespace not in self._ready:
            return []  # anybody may name one that is not there
        known |= {key for key in present - known if is_ready(self._root / namespace / key, mark)}
        self._ready[namespace], self._unready[namespace] = known, present - known
        # Who heard meanwhile that one of them is not ready has to look again.
        self._finished[namespace] = self._finished.get(namespace, 0) + len(before & known)
        return list(known)

    def holds(self, name: ModuleName) -> bool:
        """Whether an entry is ready now."""
        namespace, key = name
        folder = self._root / namespace / key
        if not (fsops.is_folder(folder.parent) and fsops.is_folder(folder)):
            return False
        if is_ready(folder, keys.ready_mark(namespace)):
            return True
        # From now on its mark counts as a change.
        self._unready.setdefault(namespace, set()).add(key)
        self._ready.get(namespace, set()).discard(key)
        return False


def _folders(parent: Path, wanted: Callable[[str], bool]) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(parent) as found:
        yield from [item.name for item in found if wanted(item.name) and item.is_dir(follow_symlinks=False)]
