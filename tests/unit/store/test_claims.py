"""Locks that an earlier life of the daemon left are cleared at start; nobody else's ever is."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from neffd.layouts import xla
from neffd.store import fsops
from neffd.store.database import Database
from neffd.store.index import Index
from neffd.store.locks import StockLocks
from neffd.store.root import CacheRoot


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


def test_who_finds_a_lock_of_ours_leaves_its_claim(lock: Path, index: Index, tmp_path: Path) -> None:
    """It could not be removed when it was given back, or another thread of ours holds it."""
    root = CacheRoot(tmp_path / "cache")
    with StockLocks(root, index).taken(lock) as is_taken:
        assert not is_taken
    assert index.clear_claims() == [lock]


def test_a_lock_that_could_not_be_noted_is_not_ours(lock: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    trainers = lock.with_name("another.lock")
    with monkeypatch.context() as fault:
        fault.setattr(Database, "run_blocking", _full)
        with pytest.raises(sqlite3.OperationalError):
            index.note_claim(trainers, 1, 1)
    assert (index.is_own_lock(lock), index.is_own_lock(trainers)) == (True, False)


def test_numbers_of_files_may_have_64_bits(lock: Path, index: Index) -> None:
    index.note_claim(lock.with_name("far"), fsops.inode(os.stat_result((0, 2**64 - 1, *[0] * 8))), 1)
    assert index.clear_claims() == [lock]


def _full(*_: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")


def test_one_that_could_not_be_given_back_goes_when_somebody_meets_it(
    root: CacheRoot, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was read-only for a moment, say. Nobody holds it: nobody waits for it, and it is told of as unknown."""
    lock, locks = root.path / "entry" / xla.LOCK, StockLocks(root, index)
    lock.parent.mkdir()
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == lock:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr("neffd.store.locks._OWN_S", 0.1)
    for is_met in (locks.has_gone, lambda _: _takes(locks, lock)):
        with monkeypatch.context() as fault:
            fault.setattr(Path, "unlink", refuse)
            with pytest.raises(OSError, match="Read-only"), locks.taken(lock) as is_ours:
                assert is_ours
            assert not index.is_own_lock(lock)
            assert not locks.has_gone(lock), "it cannot be removed yet"
        assert is_met(lock)
        assert not lock.exists()
    assert index.clear_claims() == []


def _takes(locks: StockLocks, lock: Path) -> bool:
    with locks.taken(lock) as is_ours:
        return is_ours
