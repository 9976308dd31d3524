"""Taking an entry out of a cache directory so that nobody sees a part of it. All of it blocks; on worker threads.

First the ready mark alone: from then on the entry is one that was never compiled. Whoever saw the mark a moment before
has time to open the NEFF; what is open stays whole for as long as it is. Then, under stock's own lock, the other files
and the folder, unless somebody has begun to make the entry anew. Up to 2.14 the NEFF is the mark, and there is no lock.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path

from neff import keys
from neff.keys import ModuleName
from neffd import points
from neffd.layouts import xla
from neffd.store import fsops
from neffd.store.eviction import Kept
from neffd.store.index import Evicted, Index
from neffd.store.inuse import InUse, alone
from neffd.store.locks import StockLocks, has_locks
from neffd.store.root import CacheRoot, FileFacts, Inspection
from neffd.store.sharing import CannotShare

log = logging.getLogger(__name__)


class Removal(str, Enum):
    """What became of an entry that was to be removed."""

    REMOVED = "removed"
    LEFT = "left"  # somebody makes it anew: it is not the one that was to go
    AGAIN = "again"  # not possible just now


class Remover:
    """Removes entries of one cache directory in two steps; what was begun is in the index."""

    def __init__(self, root: CacheRoot, index: Index) -> None:
        self._root = root
        self._index = index
        self._locks = StockLocks(root, index)

    def unmark(
        self,
        wanted: Mapping[ModuleName, FileFacts],
        *,
        locked_too: bool = False,
        is_recent: Callable[[float], bool] = lambda read_at: False,
    ) -> tuple[list[Evicted], dict[ModuleName, Kept]]:
        """Make entries unready, if their NEFF is still the one that was seen; also returns why others are not.

        Args:
            locked_too: a lock is no reason to keep the mark; `finish` will leave the rest to who holds it.
            is_recent: whether a NEFF that was last read then, wall seconds, is a reason to keep it: trainers read on
                after it was chosen.

        Raises sqlite3.Error, before anything is removed, if the database cannot note it.
        """
        begun, kept = [], dict[ModuleName, Kept]()
        for name, neff in wanted.items():
            try:
                looks = self._root.inspect(name)
            except OSError as error:  # a bad block, say: the others can go
                log.warning("%s cannot be looked at, and stays: %s", name, error)
                kept[name] = Kept.NOT_PERMITTED
                continue
            why = _kept_by_looks(looks, neff, locked_too=locked_too, is_recent=is_recent)
            if why is not None:
                kept[name] = why
            else:
                files = {file: (facts.inode, facts.mtime_ns) for file, facts in looks.files.items()}
                begun.append(Evicted(name, files, looks.size_bytes))
        self._index.note_evictions(self._root.path, begun)
        points.reached("eviction-noted")
        gone = []
        for entry in begun:
            why = self._unmark(entry.name)
            if why is None:
                gone.append(entry)
            else:
                kept[entry.name] = why
        # Others may have been begun before.
        self._index.drop_evictions(self._root.path, [entry.name for entry in begun if entry.name in kept])
        if gone:
            points.reached("eviction-unmarked")
        return gone, kept

    def _unmark(self, name: ModuleName) -> Kept | None:
        folder = self._root.entry(name)
        try:
            with alone(folder / xla.NEFF):
                (folder / keys.ready_mark(name.namespace)).unlink()
        except InUse:
            return Kept.IN_USE
        except FileNotFoundError:
            return Kept.NOT_READY
        except OSError:
            return Kept.NOT_PERMITTED
        return None

    def finish(self, entry: Evicted) -> Removal:
        """Remove what is left of an entry without its mark; only what has to be tried AGAIN stays noted."""
        folder = self._root.entry(entry.name)
        try:
            outcome = self._finish(entry, folder) if fsops.is_folder(folder) else Removal.REMOVED
        except FileNotFoundError:
            outcome = Removal.REMOVED
        except (OSError, CannotShare):
            return Removal.AGAIN
        self._index.drop_evictions(self._root.path, [entry.name])
        return outcome

    def _finish(self, entry: Evicted, folder: Path) -> Removal:
        if has_locks(entry.name.namespace):
            with self._locks.taken(folder / xla.LOCK) as is_ours:
                outcome = self._empty(entry, folder) if is_ours else Removal.LEFT
        else:
            outcome = self._empty(entry, folder)
        if outcome is Removal.REMOVED:
            points.reached("eviction-emptied")
            with contextlib.suppress(OSError):  # somebody is at work in it, or keeps something of his own there
                folder.rmdir()
        return outcome

    def _empty(self, entry: Evicted, folder: Path) -> Removal:
        """Remove the very files that were there when the entry was chosen; all of them or none."""
        looks = self._root.inspect(entry.name)
        identities = {file: (facts.inode, facts.mtime_ns) for file, facts in looks.files.items()}
        is_anew = any(entry.files.get(file) != identity for file, identity in identities.items())
        if looks.state is xla.State.READY or is_anew:
            return Removal.LEFT
        fsops.sync_directory(folder)  # without the mark, before the first file goes: a crash would bring back a part
        for file in reversed(xla.publishing_order(entry.name.namespace, list(identities))):
            (folder / file).unlink(missing_ok=True)
        (folder / xla.FAILURE_LOG).unlink(missing_ok=True)
        return Removal.REMOVED


def _kept_by_looks(
    looks: Inspection, neff: FileFacts, *, locked_too: bool, is_recent: Callable[[float], bool]
) -> Kept | None:
    if looks.state is not xla.State.READY or looks.neff != neff:
        return Kept.NOT_READY
    if looks.is_locked and not locked_too:
        return Kept.LOCKED
    return Kept.RECENT if is_recent(looks.read_at) else None
