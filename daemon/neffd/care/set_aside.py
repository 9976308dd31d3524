"""Moving the record of a failed compile out of an entry, so that stock compiles the entry again. Blocking.

From 2.15 on the record is `model.log`; without it the entry is pending. Up to 2.14 it is a text in `model.neff`. What
is moved is kept for a look in the staging folder, `failed/<namespace>/<key>/<time>.log`, within bounds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from neff import keys
from neff.keys import ModuleName
from neffd.care.failures import EDGE_BYTES
from neffd.layouts import xla
from neffd.store import fsops
from neffd.store.root import CacheRoot, FileFacts

_FOLDER = "failed"
# In place, where the staging folder cannot take it; no name of stock's.
_SUFFIX_IN_PLACE = ".neffd-set-aside"
MAX_KEPT = 200
MAX_KEPT_BYTES = 64 * 2**20
# A NEFF that is longer is no failure's text.
LONGEST_TEXT_BYTES = 2**20


@dataclass(frozen=True)
class Record:
    """The file that makes stock repeat a failure, as it was found."""

    path: Path
    facts: FileFacts


class CannotSetAside(Exception):
    """The record of a failure cannot be read or moved.

    Args:
        reason: `cannot-read` or `cannot-remove`.
        hint: the command that would do it.
    """

    def __init__(self, reason: str, detail: str, hint: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.hint = hint


def may_hold_text(name: ModuleName, neff: FileFacts | None) -> bool:
    """Whether a ready entry could be a failure's text: only where the NEFF is its own ready mark."""
    is_old = keys.ready_mark(name.namespace) == xla.NEFF
    return is_old and neff is not None and neff.size_bytes <= LONGEST_TEXT_BYTES


def find(root: CacheRoot, name: ModuleName) -> Record | None:
    """The record of a failure in an entry that nobody has locked; None if there is none.

    Raises CannotSetAside where that cannot be seen, and OSError.
    """
    looks = root.inspect(name)
    path = root.entry(name) / xla.FAILURE_LOG
    if looks.state is xla.State.READY and may_hold_text(name, looks.neff):
        path = root.entry(name) / xla.NEFF
        if not xla.is_failure_text(_read(path, xla.NEFF_HEADER_BYTES)) or _is_locked(path.parent):
            return None
    elif looks.state is not xla.State.FAILED:
        return None
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(facts.st_mode):
        return None
    return Record(path, FileFacts.of(facts))


def read(record: Record) -> bytes:
    """Both ends of the record's text; raises CannotSetAside if it may not be read, and OSError."""
    return _read(record.path, EDGE_BYTES, EDGE_BYTES)


def move(root: CacheRoot, name: ModuleName, record: Record) -> Path:
    """Move the record away in one step; returns where it is now. Raises CannotSetAside, and OSError."""
    folder = root.staging / _FOLDER / name.namespace / name.key
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = folder / f"{time.time_ns()}.log"
    try:
        try:
            record.path.rename(target)
        except OSError as error:
            _remove_empty(folder)
            if error.errno != errno.EXDEV:  # a namespace that is a mount of its own
                raise
            target = record.path.with_name(record.path.name + _SUFFIX_IN_PLACE)
            record.path.rename(target)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise CannotSetAside("cannot-remove", f"{record.path}: {error.strerror}", removal(record)) from None
    return target


def removal(record: Record) -> str:
    """The command with which somebody who may lets stock compile the entry again."""
    return f"rm {shlex.quote(str(record.path))}"


def prune(root: CacheRoot, most: int = MAX_KEPT, most_bytes: int = MAX_KEPT_BYTES) -> None:
    """Keep the newest of what was set aside, within both bounds; the newest one in any case."""
    kept, kept_bytes = 0, 0
    for path in sorted((root.staging / _FOLDER).glob("*/*/*.log"), key=lambda path: path.name, reverse=True):
        with contextlib.suppress(FileNotFoundError):
            kept_bytes += path.lstat().st_size
            kept += 1
            if kept > 1 and (kept > most or kept_bytes > most_bytes):
                path.unlink()
                _remove_empty(path.parent)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _is_locked(folder: Path) -> bool:
    return any(name.endswith(xla.LOCK_SUFFIX) for name in os.listdir(folder))  # noqa: PTH208


def _read(path: Path, start_bytes: int, end_bytes: int = 0) -> bytes:
    try:
        fd = fsops.open_regular(path)
    except PermissionError as error:
        hint = f"chmod a+r {shlex.quote(str(path))}"
        raise CannotSetAside("cannot-read", f"{path}: {error.strerror}", hint) from None
    with open(fd, "rb", buffering=0) as reader:
        start = reader.read(start_bytes)
        size_bytes = os.fstat(fd).st_size
        if size_bytes <= start_bytes or not end_bytes:
            return start
        reader.seek(max(start_bytes, size_bytes - end_bytes))
        return start + b"\n" + reader.read(end_bytes)
