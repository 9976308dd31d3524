"""The staging folder at the start: it becomes ours alone, and what an earlier life left in it is cleared."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

from neffd.errors import NeffdError
from neffd.serve.status import Problems
from neffd.store import fsops
from neffd.store.root import SERVED, STAGING_LOCK, CacheRoot, disk_hint

_LOOK_EVERY_S = 2.0
_DISK = "disk"


def own_staging(root: CacheRoot) -> int | None:
    """Lock the staging folder for the life of this process; returns the file descriptor that holds the lock.

    A second daemon on the cache directory, with a journal of its own, would take what we have pinned for left-overs.
    None while the disk does not let us have one. Raises NeffdError if there is a second daemon.
    """
    return _lock(root) if root.closed is None else None


def _lock(root: CacheRoot) -> int:
    fd = os.open(root.staging / STAGING_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    return fsops.hold_for_life(fd, f"{SERVED} {root.path}", "stop it, or give this one other cache_dirs")


def clean_staging(root: CacheRoot, pinned: Collection[Path]) -> None:
    """Remove half-made downloads, lock drafts, and pinned files that no journal row refers to. Blocking."""
    if root.closed is None:
        _clean(root, pinned)


def _clean(root: CacheRoot, pinned: Collection[Path]) -> None:
    fsops.remove_tree(root.staging / "fetch")
    for draft in root.staging.glob("lock-*"):
        draft.unlink(missing_ok=True)
    outbox = root.staging / "outbox"
    if outbox.is_dir():
        for folder in outbox.iterdir():
            if folder not in pinned:
                fsops.remove_tree(folder)


async def open_later(
    root: CacheRoot,
    problems: Problems,
    pinned: Callable[[], Collection[Path]],
    in_worker: Callable[..., Awaitable[Any]],
) -> int | None:
    """Wait until the disk lets us have the staging folder, then make it ours, as at a start.

    Until then it is a problem that is shown. Returns what holds the lock; None where it was ours already.
    """
    lock: int | None = None
    while (closed := root.closed) is not None:
        problems.note(_DISK, f"{closed.strerror}: nothing is fetched or taken", disk_hint(closed, root.path))
        await asyncio.sleep(_LOOK_EVERY_S)
        try:
            lock = await in_worker(_open, root, pinned)
        except NeffdError as error:  # writable, but not for us
            problems.note(_DISK, error.message, error.hint)
        except (OSError, sqlite3.Error) as error:
            problems.note(_DISK, str(error), "")
    problems.over(_DISK)
    return lock


def _open(root: CacheRoot, pinned: Callable[[], Collection[Path]]) -> int | None:
    if root.look_again() is not None:
        return None
    lock = _lock(root)
    try:
        _clean(root, pinned())
    except BaseException:
        os.close(lock)
        raise
    root.closed = None
    return lock
