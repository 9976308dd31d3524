"""Moving a fetched entry into the cache directory so that nobody ever sees a part of it.

The four cases of rule 1: (a) no folder yet: rename the whole in one step; (b) the asker holds the entry's lock and
waits for us: file by file, its inputs kept, ready mark last; (c) a folder without a lock: take the lock as stock
would, then as (b); (d) locked by somebody else: touch nothing. All of it blocks; it runs on worker threads.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from neff import keys
from neff.keys import ModuleName
from neffd import points
from neffd.layouts import xla
from neffd.store import fsops, sharing
from neffd.store.index import Index
from neffd.store.locks import StockLocks, has_locks
from neffd.store.root import PART_SUFFIX, CacheRoot
from neffd.store.sharing import CannotShare

_PIECE_BYTES = 1 << 20
# What stood in the way of so many in a row may as well stand in the way of the next.
_TRIES = 3


class Placement(str, Enum):
    """What became of a staged entry."""

    PLACED = "placed"
    ALREADY_READY = "already-ready"
    LOCKED = "locked"


class Placer:
    """Places staged entries into one cache directory."""

    def __init__(self, root: CacheRoot, index: Index) -> None:
        self._root = root
        self._locks = StockLocks(root, index)

    def place(self, name: ModuleName, staged: Path, *, asker_holds_lock: bool) -> Placement:
        """Move the files of `staged` (each named with PART_SUFFIX) into the entry `name`.

        Args:
            name: the entry; the index knows its origin already.
            staged: a folder of ours on the same file system; gone after PLACED, left as it is otherwise.
            asker_holds_lock: a process that waits for this very entry has made its lock file.

        Raises CannotShare where the result would hinder another user or may not be written, and OSError.
        """
        try:
            self._make_namespace(name.namespace)
            return self._place_if_possible(name, staged, asker_holds_lock)
        except PermissionError as error:
            where = Path(error.filename2 or error.filename or self._root.path)
            entry = self._root.entry(name)
            command = sharing.share_command(self._root.path, entry.parent, entry)
            raise CannotShare(f"{where}: {error.strerror}", command) from None

    def _place_if_possible(self, name: ModuleName, staged: Path, asker_holds_lock: bool) -> Placement:
        """Once more where what was in the way has gone: an eviction has the lock, and then the folder, for a moment."""
        target, tries, whole = self._root.entry(name), 0, set(staged.iterdir())
        while True:
            tries += 1
            try:
                placement = self._place(name, staged, asker_holds_lock)
            except FileNotFoundError:
                # A part of it went with the folder: the rest alone would pass for an entry.
                if tries == _TRIES or os.path.lexists(target) or set(staged.iterdir()) != whole:
                    raise
                continue
            if placement is not Placement.LOCKED or tries == _TRIES or not self._locks.has_gone(target / xla.LOCK):
                return placement

    def _place(self, name: ModuleName, staged: Path, asker_holds_lock: bool) -> Placement:
        target = self._root.entry(name)
        if not os.path.lexists(target):
            with contextlib.suppress(FileExistsError):
                self._place_whole(staged, target)
                return Placement.PLACED
        _refuse_if_no_folder(target)
        state = self._root.inspect(name).state
        if state is xla.State.READY:
            return Placement.ALREADY_READY
        # A lock that is gone is not the asker's any more, whatever it said.
        asker_holds_lock = asker_holds_lock and state is xla.State.COMPILING
        if asker_holds_lock or not has_locks(name.namespace):
            self._place_files(name, staged, target)
            return Placement.PLACED
        if state is xla.State.COMPILING:
            return Placement.LOCKED
        return self._place_under_lock(name, staged, target)

    def _make_namespace(self, namespace: str) -> None:
        folder = self._root.path / namespace
        if fsops.is_folder(folder):
            return
        if os.path.lexists(folder):
            _refuse_if_no_folder(folder)
        draft = self._root.new_folder("fetch")
        try:
            sharing.inherit(draft, self._root.path)
            sharing.check_harmless(draft, self._root.path)
            with contextlib.suppress(FileExistsError):
                fsops.rename_exclusive(draft, folder)
                fsops.sync_directory(self._root.path)
        finally:
            fsops.remove_tree(draft)

    def _place_whole(self, staged: Path, target: Path) -> None:
        parts = {part: part.with_name(_stock_name(part)) for part in sorted(staged.iterdir())}
        try:
            for part, named in parts.items():
                part.rename(named)
            sharing.inherit(staged, target.parent, parts.values())
            sharing.check_harmless(staged, target.parent, self._root.path)
            fsops.sync_directory(staged)
            fsops.rename_exclusive(staged, target)
        except BaseException:
            for part, named in parts.items():
                with contextlib.suppress(FileNotFoundError):
                    named.rename(part)
            raise
        points.reached("entry-renamed")
        fsops.sync_directory(target.parent)

    def _place_under_lock(self, name: ModuleName, staged: Path, target: Path) -> Placement:
        with self._locks.taken(target / xla.LOCK) as is_ours:
            if not is_ours:
                return Placement.LOCKED
            # Whoever held the lock until now may have finished the entry.
            if self._root.is_ready(name):
                return Placement.ALREADY_READY
            self._place_files(name, staged, target)
            return Placement.PLACED

    def _place_files(self, name: ModuleName, staged: Path, target: Path) -> None:
        mark = keys.ready_mark(name.namespace)
        for part in staged.iterdir():
            sharing.inherit(part, target)
            sharing.check_harmless(part, target, self._root.path)
        for part in _in_order(name.namespace, staged):
            final = target / _stock_name(part)
            # Inputs are the asker's own; they are equal in meaning.
            if final.name in xla.INPUTS and final.exists() and not _is_cut_short(final, part):
                fsops.sync_file(final)
                part.unlink()
                continue
            if final.name == mark:
                fsops.sync_directory(target)
                points.reached("before-ready-mark")
            part.rename(final)
            points.reached("after-ready-mark" if final.name == mark else "entry-renamed")
        fsops.sync_directory(target)
        fsops.remove_tree(staged)


def _refuse_if_no_folder(path: Path) -> None:
    """A link could lead out of the cache directory."""
    if not fsops.is_folder(path):
        raise CannotShare(f"{path} is not a folder", f"rm {shlex.quote(str(path))}")


def _is_cut_short(kept: Path, whole: Path) -> bool:
    """Whether `kept` is but the beginning of `whole`: what is left of a write that failed, on a full disk for one."""
    try:
        with open(fsops.open_regular(kept), "rb") as short, whole.open("rb") as long:
            if os.fstat(short.fileno()).st_size >= os.fstat(long.fileno()).st_size:
                return False
            while piece := short.read(_PIECE_BYTES):
                if long.read(len(piece)) != piece:
                    return False
    except OSError:
        return False
    return True


def _stock_name(part: Path) -> str:
    return part.name.removesuffix(PART_SUFFIX)


def _in_order(namespace: str, staged: Path) -> Iterator[Path]:
    names = [_stock_name(part) for part in staged.iterdir()]
    for name in xla.publishing_order(namespace, names):
        yield staged / (name + PART_SUFFIX)
