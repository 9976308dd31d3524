"""A cache directory: what is looked at, what is ignored, where neffd's own things go."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from neffd.errors import NeffdError
from neffd.layouts import xla
from neffd.store.root import PART_SUFFIX, CacheRoot
from neffd.store.staging import clean_staging, own_staging
from tests.harness import entries

NAME = entries.module(1)


def test_a_missing_directory_is_made_like_a_child_of_its_parent(tmp_path: Path) -> None:
    tmp_path.chmod(0o2775)
    root = CacheRoot(tmp_path / "cache")
    assert root.path.stat().st_mode == tmp_path.stat().st_mode
    assert not list(tmp_path.glob(".*"))


def test_without_a_parent(tmp_path: Path) -> None:
    with pytest.raises(NeffdError) as refusal:
        CacheRoot(tmp_path / "no" / "cache")
    assert refusal.value.reference == "cache-dir"


def test_no_place_for_staging(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache.neffd").symlink_to(tmp_path)
    (tmp_path / "cache" / ".cache").touch()
    with pytest.raises(NeffdError) as refusal:
        CacheRoot(tmp_path / "cache")
    assert refusal.value.reference == "staging-dir"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
@pytest.mark.parametrize("was_used", [True, False])
def test_a_read_only_disk_is_no_matter_of_rights(tmp_path: Path, was_used: bool) -> None:
    (tmp_path / "cache").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path], check=False).returncode:
        pytest.skip("no mounts here")
    try:
        (tmp_path / "cache").mkdir()
        if was_used:
            CacheRoot(tmp_path / "cache")
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        root = CacheRoot(tmp_path / "cache")
        assert own_staging(root) is None
        with pytest.raises(OSError, match="Read-only file system"):
            root.new_folder("fetch")
        with pytest.raises(NeffdError) as refusal:
            CacheRoot(tmp_path / "other")
        assert "mount it writable" in refusal.value.hint
        subprocess.run(["mount", "-o", "remount,rw", tmp_path], check=True)
        with pytest.raises(OSError, match="Read-only file system"):
            root.new_folder("fetch")  # before it is ours
        assert root.look_again() is None
        root.closed = None
        assert root.new_folder("fetch").parent.parent == tmp_path / "cache.neffd"
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_only_known_names_are_listed(root: CacheRoot) -> None:
    entries.write(root.path, NAME, entries.files(NAME))
    for other in ("0_REGISTRY", "MODULE_0123456789abcdef0123", "neuronxcc-"):
        (root.path / other).mkdir()
        (root.path / NAME.namespace / other).mkdir()
    (root.path / "neuronxcc-2.20").symlink_to(root.path / NAME.namespace)
    (root.path / NAME.namespace / entries.module(2).key).symlink_to(NAME.key)
    (root.path / NAME.namespace / entries.module(3).key).touch()
    assert list(root.namespaces()) == [NAME.namespace]
    assert list(root.module_keys(NAME.namespace)) == [NAME.key]
    assert list(root.module_keys(entries.OLD_NAMESPACE)) == []


@pytest.mark.parametrize("linked", ["entry", "namespace"])
def test_a_linked_folder_counts_as_absent(root: CacheRoot, tmp_path: Path, linked: str) -> None:
    outside = entries.write(tmp_path / "outside", NAME, entries.files(NAME))
    if linked == "entry":
        root.entry(NAME).parent.mkdir()
        root.entry(NAME).symlink_to(outside)
    else:
        root.entry(NAME).parent.symlink_to(outside.parent)
    looks = root.inspect(NAME)
    assert (looks.state, looks.files, looks.folder_exists) == (xla.State.EMPTY, {}, False)


def test_what_is_no_file_counts_as_absent(root: CacheRoot, tmp_path: Path) -> None:
    folder = entries.write(root.path, NAME, {**entries.files(NAME), "notes.txt": b"mine"})
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "wrapped_neff.hlo").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "compile_flags.txt")
    looks = root.inspect(NAME)
    assert looks.state is xla.State.READY
    assert set(looks.files) == set(entries.files(NAME))


def test_is_ready(root: CacheRoot) -> None:
    assert not root.is_ready(NAME)
    folder = entries.write(root.path, NAME, {"model.neff": b"", "model.done": b""})
    assert not root.is_ready(NAME)
    (folder / "model.neff").write_bytes(b"x")
    assert root.is_ready(NAME)


def test_cleaning_leaves_what_the_journal_refers_to(root: CacheRoot) -> None:
    kept, dropped, half_made = root.new_folder("outbox"), root.new_folder("outbox"), root.new_folder("fetch")
    for folder in (kept, dropped, half_made):
        (folder / ("model.neff" + PART_SUFFIX)).touch()
    (root.staging / "lock-0123").touch()
    clean_staging(root, {kept})
    assert [path for path in root.staging.rglob("*") if path.is_file()] == [kept / ("model.neff" + PART_SUFFIX)]
