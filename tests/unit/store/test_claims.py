"""Locks that an earlier life of the daemon left are cleared at start; nobody else's ever is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neffd.layouts import xla
from neffd.store.index import Index


@pytest.fixture
def lock(tmp_path: Path, index: Index) -> Path:
    """A lock of ours, as a kill in the middle of placing leaves it."""
    lock = tmp_path / "entry" / xla.LOCK
    lock.parent.mkdir()
    _note(index, lock)
    return lock


def _note(index: Index, lock: Path) -> None:
    lock.touch()
    facts = lock.stat()
    index.note_claim(lock, facts.st_ino, facts.st_mtime_ns)


def test_ours_is_cleared_once(lock: Path, index: Index) -> None:
    assert index.clear_claims() == [lock]
    lock.touch()
    assert index.clear_claims() == []
    assert lock.exists()


def test_another_file_with_the_same_inode_stays(lock: Path, index: Index) -> None:
    os.utime(lock, ns=(1, 1))
    assert index.clear_claims() == []
    assert lock.exists()


def test_another_file_at_the_same_moment_stays(lock: Path, index: Index) -> None:
    facts = lock.stat()
    keep_inode = lock.with_name("other")
    lock.rename(keep_inode)
    lock.touch()
    os.utime(lock, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert index.clear_claims() == []
    assert lock.exists()


def test_a_lock_that_is_gone_is_forgotten(lock: Path, index: Index) -> None:
    lock.unlink()
    assert index.clear_claims() == []


def test_one_that_cannot_be_reached_does_not_keep_the_others(lock: Path, index: Index, tmp_path: Path) -> None:
    gone = tmp_path / "a file by now" / xla.LOCK
    index.note_claim(gone, 1, 1)
    gone.parent.touch()
    assert index.clear_claims() == [lock]


def test_one_that_cannot_be_removed_is_tried_again(lock: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as fault:
        fault.setattr(Path, "unlink", refuse)
        assert index.clear_claims() == []
    assert index.clear_claims() == [lock]
