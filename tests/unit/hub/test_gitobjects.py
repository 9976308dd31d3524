"""Ids are those of git itself, and folders are seen as git sees them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.hub.gitobjects import blob_id, lfs_pointer, new_commit_id
from tests.hub.trees import Entry, Tree

FILES = {
    "a.txt": b"text",
    "a/b": b"",
    "a-b/c": b"1",
    "a/sub/deep.bin": bytes(range(256)),
    "ünï": "wörds".encode(),
    "zz/0": b"0",
}


def tree_of(files: dict[str, bytes]) -> Tree:
    return Tree({path: Entry(blob_id(data), len(data)) for path, data in files.items()})


def git(folder: Path, *arguments: str, stdin: bytes = b"") -> str:
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, input=stdin, capture_output=True, check=True, env=environment, timeout=20
    )
    return done.stdout.decode().strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    git(tmp_path, "init", "--quiet")
    return tmp_path


def test_blob_ids_are_those_of_git(repository: Path) -> None:
    for data in FILES.values():
        assert blob_id(data) == git(repository, "hash-object", "--stdin", stdin=data)


def test_folder_ids_are_those_of_git(repository: Path) -> None:
    files = {path: data for path, data in FILES.items() if path != "a.txt"} | {"a.txt": b"text", "b0": b"0"}
    for path, data in files.items():
        target = repository / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    git(repository, "add", "--all")
    tree = tree_of(files)
    root = git(repository, "write-tree")
    assert tree.folder_id("") == root
    assert tree.folder_id("a") == git(repository, "rev-parse", f"{root}:a")
    assert tree.folder_id("a/sub") == git(repository, "rev-parse", f"{root}:a/sub")


def test_pointer_text() -> None:
    pointer = lfs_pointer("ab" * 32, 12345)
    assert pointer == b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 12345\n"


def test_commit_ids_are_unique() -> None:
    ids = {new_commit_id(None, "alice", "same") for _ in range(100)}
    assert len(ids) == 100
    assert all(len(commit_id) == 40 for commit_id in ids)


def test_listing_below_a_folder_stays_inside_it() -> None:
    tree = tree_of(FILES)
    assert tree.below("a") == ["a/b", "a/sub", "a/sub/deep.bin"]
    assert tree.directly_in("a") == ["a/b", "a/sub"]
    assert tree.directly_in("") == ["a", "a-b", "a.txt", "zz", "ünï"]
    assert tree.below("") == sorted([*FILES, "a", "a-b", "a/sub", "zz"])
    assert not tree.is_folder("a.txt")
    assert tree_of({}).below("") == []
