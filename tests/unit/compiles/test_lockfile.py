from __future__ import annotations

import os
from pathlib import Path

import pytest

from neff.keys import LockId
from neffd.compiles import lockfile
from neffd.compiles.lockfile import Removal


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "model.hlo_module.pb.lock"
    path.touch()
    return path


def test_the_lock_that_was_meant_is_removed(lock: Path) -> None:
    meant = lockfile.identity(lock)
    assert meant is not None
    assert lockfile.remove(lock, meant) is Removal.REMOVED
    assert lockfile.identity(lock) is None
    assert lockfile.made_by(lock, os.getuid()) is None
    assert lockfile.remove(lock, meant) is Removal.NOT_THAT_ONE


def test_another_lock_of_its_name_stays(lock: Path) -> None:
    meant = lockfile.identity(lock)
    assert meant is not None
    lock.rename(lock.with_name("kept"))
    lock.touch()
    assert lockfile.remove(lock, meant) is Removal.NOT_THAT_ONE
    assert lockfile.remove(lock, LockId(lock.stat().st_ino, 1)) is Removal.NOT_THAT_ONE
    assert lock.exists()


def test_a_lock_that_may_not_be_removed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"  # which unlink refuses whoever asks
    folder.mkdir()
    meant = lockfile.identity(folder)
    assert meant is not None
    assert lockfile.remove(folder, meant) is Removal.REFUSED


def test_owner_and_age(lock: Path) -> None:
    meant = lockfile.identity(lock)
    assert meant is not None
    assert lockfile.made_by(lock, os.getuid()) == lockfile.made_by(lock, 0) == meant
    assert lockfile.made_by(lock, os.getuid() + 1) is None
    assert 0 <= lockfile.age_s(meant) < 60
    assert lockfile.age_s(LockId(1, 2**62)) == 0


@pytest.mark.parametrize(
    ("types", "is_local"),
    [
        (["ext4"], True),
        (["ext4", "ext4"], True),
        (["nfs4"], False),
        (["fuse.sshfs"], False),
        ([], False),
        (["xfs", "9p"], False),
    ],
)
def test_which_file_systems_are_this_hosts_alone(tmp_path: Path, types: list[str], is_local: bool) -> None:
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = tmp_path / "mountinfo"
    lines = [f"1 2 {number} / /somewhere rw shared:1 - {kind} source rw" for kind in types]
    mounts.write_text("\n".join(["9 9 999:999 / / rw - nfs server:/ rw", *lines]) + "\n")
    assert lockfile.is_on_local_disk(tmp_path, mounts) is is_local


def test_what_cannot_be_read_is_not_local(tmp_path: Path) -> None:
    assert not lockfile.is_on_local_disk(tmp_path, tmp_path / "missing")
    assert not lockfile.is_on_local_disk(tmp_path / "missing")
