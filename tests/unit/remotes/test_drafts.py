"""Sweeping a shared directory: only what is ours, and only what nobody can still be at work on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neffd.remotes import drafts
from neffd.remotes.drafts import ABANDONED_S, sweep

STAGING = ".neffd-staging"
OLD_S, YOUNG_S = ABANDONED_S + 3600, ABANDONED_S - 3600


def age(path: Path, age_s: float) -> Path:
    """Let everything at `path` look as if it was last touched that long ago."""
    then = path.stat().st_mtime - age_s
    for touched in (*path.rglob("*"), path):
        os.utime(touched, (then, then), follow_symlinks=False)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / STAGING).mkdir()
    return tmp_path


def draft(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.neff").write_bytes(b"x")
    return folder


def test_what_a_dead_publisher_left_is_removed(root: Path) -> None:
    left = [
        age(draft(root / STAGING / ("a" * 16)), OLD_S),
        age(draft(root / f"{STAGING}-{'b' * 16}"), OLD_S),
    ]
    mark = root / STAGING / f"{'c' * 16}.mark"
    mark.touch()
    left.append(age(mark, OLD_S))
    assert sweep(root, STAGING) == 3
    assert not any(path.exists() for path in left)
    assert [path.name for path in root.iterdir()] == [STAGING]


def test_what_may_be_in_use_stays(root: Path) -> None:
    young = age(draft(root / STAGING / ("a" * 16)), YOUNG_S)
    growing = age(draft(root / STAGING / ("b" * 16)), OLD_S)
    (growing / "model.neff").write_bytes(b"xx")
    assert sweep(root, STAGING) == 0
    assert young.exists()
    assert growing.exists()


def test_what_is_not_ours_stays(root: Path) -> None:
    theirs = [age(draft(root / STAGING / "notes"), OLD_S), age(draft(root / f"{STAGING}-old"), OLD_S)]
    assert sweep(root, STAGING) == 0
    assert all(path.exists() for path in theirs)


def test_links_are_not_followed(root: Path, tmp_path: Path) -> None:
    precious = draft(tmp_path / "precious")
    link = root / STAGING / ("a" * 16)
    link.symlink_to(precious)
    age(precious, OLD_S)
    os.utime(link, (0, 0), follow_symlinks=False)
    sweep(root, STAGING)
    assert not link.is_symlink()
    assert (precious / "model.neff").exists()


@pytest.mark.parametrize("place", ["missing", "a file"])
def test_without_a_folder_of_drafts_nothing_happens(tmp_path: Path, place: str) -> None:
    if place == "a file":
        (tmp_path / STAGING).touch()
    assert drafts.sweep(tmp_path, STAGING) == 0
