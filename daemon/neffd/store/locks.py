"""Stock's lock file on an entry, taken the way stock takes it. Blocking."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from neff import keys
from neffd.layouts import xla
from neffd.store import fsops, sharing
from neffd.store.index import Index
from neffd.store.root import CacheRoot


def has_locks(namespace: str) -> bool:
    """Up to 2.14 there is one lock for the whole cache directory, which is never ours to take."""
    return keys.ready_mark(namespace) != xla.NEFF


# An eviction holds a lock while it removes an entry's few files.
_OWN_S = 10.0


class StockLocks:
    """Takes and gives back locks in one cache directory; a lock of a killed daemon is cleared at its next start."""

    def __init__(self, root: CacheRoot, index: Index) -> None:
        self._root = root
        self._index = index

    @contextlib.contextmanager
    def taken(self, lock: Path) -> Iterator[bool]:
        """Hold the lock file `lock`, if nobody else does: whether we do. Raises OSError and CannotShare."""
        identity = self._take(lock)
        try:
            yield identity is not None
        finally:
            if identity is not None:
                self._give_back(lock, identity)

    def has_gone(self, lock: Path) -> bool:
        """Whether a lock file that was there a moment ago is not any more; one of ours is waited for."""
        self._index.wait_for_own_lock(lock, _OWN_S)
        return not self._is_there(lock)

    def _give_back(self, lock: Path, identity: tuple[int, int]) -> None:
        try:
            with contextlib.suppress(FileNotFoundError):
                # Tools that clear locks clear ours too; what is there then is somebody else's.
                if _identity(lock) == identity:
                    lock.unlink()
                    fsops.sync_directory(lock.parent)  # or a crash brings it back, and nobody knows that it is ours
        except OSError:
            self._index.let_go(lock)  # its claim stays: whoever meets it, or the next start, tries again
            raise
        self._index.drop_claim(lock)

    def _is_there(self, lock: Path) -> bool:
        """Whether a lock file is there; one of ours that could not be removed before is removed now if possible."""
        with contextlib.suppress(OSError):
            identity = _identity(lock)
            if self._index.is_left_over(lock, *identity):
                self._give_back(lock, identity)
        return os.path.lexists(lock)

    def _take(self, lock: Path) -> tuple[int, int] | None:
        """Create the file, known to the index by its identity before it has its name."""
        if self._is_there(lock):  # perhaps of ours, whose claim must stay
            return None
        draft = self._root.staging / f"lock-{secrets.token_hex(8)}"
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        try:
            sharing.inherit(draft, lock.parent)
            identity = _identity(draft)
            self._index.note_claim(lock, *identity)
            try:
                fsops.rename_exclusive(draft, lock)
            except OSError as error:
                self._index.drop_claim(lock)
                if isinstance(error, FileExistsError):
                    return None
                raise
            return identity
        finally:
            draft.unlink(missing_ok=True)


def _identity(lock: Path) -> tuple[int, int]:
    """An inode alone could have been given to another file."""
    facts = lock.lstat()
    return fsops.inode(facts), facts.st_mtime_ns
