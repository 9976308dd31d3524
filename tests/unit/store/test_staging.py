"""A staging folder that the disk did not let us have at the start is had later, whatever fails in between."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
from collections.abc import Collection
from pathlib import Path

import pytest

from neffd.serve.status import Problems
from neffd.store import staging
from neffd.store.root import CacheRoot
from neffd.store.staging import open_later


async def test_a_journal_that_cannot_be_read_just_then_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is on a disk of its own, which may be sick as well."""
    monkeypatch.setattr(staging, "_LOOK_EVERY_S", 0.01)
    root, problems, seen = CacheRoot(tmp_path / "cache"), Problems("cache"), list[str]()
    root.closed = OSError(errno.EROFS, os.strerror(errno.EROFS))

    def pinned() -> Collection[Path]:
        seen.extend(problem["detail"] for problem in problems.status())
        if len(seen) < 3:
            raise sqlite3.OperationalError("attempt to write a readonly database")
        return set()

    lock = await open_later(root, problems, pinned, asyncio.to_thread)
    assert lock is not None
    os.close(lock)
    assert problems.status() == []
    assert root.new_folder("fetch").is_dir(), "it can be used"
    assert len(seen) >= 3, "it was said all the time"
