"""Stock's lock files as a `stat` shows them, and how a stale one is removed. All of it blocks."""

from __future__ import annotations

import os
import time
from enum import Enum
from pathlib import Path

from neff.keys import LockId

# Where a lock that was seen before the last boot cannot have been made by another host.
_LOCAL_TYPES = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "jfs", "overlay", "tmpfs", "ramfs"}
)

_JUST_NOW_S = 2.0

# What the database can hold.
MOST = 2**63 - 1


class Removal(str, Enum):
    """What became of a lock that should go."""

    REMOVED = "removed"
    NOT_THAT_ONE = "not-that-one"  # it is gone, or another one has its place
    REFUSED = "refused"


def identity(lock: Path) -> LockId | None:
    """Which file the lock is; None where there is none."""
    try:
        facts = os.lstat(lock)
    except OSError:
        return None
    return LockId(facts.st_ino & MOST, facts.st_ctime_ns)


def is_hidden(lock: Path) -> bool:
    """Whether nobody here may see if there is a lock: its folder is closed to us, or its file system fails."""
    try:
        os.lstat(lock)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return False


def made_by(lock: Path, uid: int) -> LockId | None:
    """Which file the lock is where a process of `uid` may have made it; None where there is none, or another's."""
    try:
        facts = os.lstat(lock)
    except OSError:
        return None
    return LockId(facts.st_ino & MOST, facts.st_ctime_ns) if uid in (0, facts.st_uid) else None


def age_s(lock: LockId) -> float:
    """For how long the lock has been there, by the wall clock."""
    return max(0.0, time.time() - lock.ctime_ns / 1e9)


def is_new(lock: LockId) -> bool:
    """Whether the wall clock and that of the lock's file system agree that it was made just now."""
    return abs(time.time() - lock.ctime_ns / 1e9) < _JUST_NOW_S


def remove(lock: Path, expected: LockId) -> Removal:
    """Remove the lock if it still is the one that was meant."""
    if identity(lock) != expected:
        return Removal.NOT_THAT_ONE
    try:
        lock.unlink()
    except FileNotFoundError:
        return Removal.NOT_THAT_ONE
    except OSError:
        return Removal.REFUSED
    return Removal.REMOVED


def is_on_local_disk(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether only this host can write to the file system of `path`; no, where that is not certain."""
    try:
        device = path.stat().st_dev
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    types = {_type(line) for line in lines if line.split()[2:3] == [number]}
    return bool(types) and types <= _LOCAL_TYPES


def _type(line: str) -> str:
    return line.partition(" - ")[2].partition(" ")[0]
