"""Removing entries: the mark first, nothing that is in use, nothing that somebody made meanwhile."""

from __future__ import annotations

import errno
import mmap
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from neff import keys
from neff.keys import ModuleName
from neffd import points
from neffd.layouts import xla
from neffd.store import fsops, inuse
from neffd.store.eviction import Kept
from neffd.store.index import Evicted, Index
from neffd.store.removal import Removal, Remover
from neffd.store.root import CacheRoot, Inspection
from tests.harness import entries
from tests.unit.store.as_user import User, needs_root

NAME = entries.module(1)


@pytest.fixture
def remover(root: CacheRoot, index: Index) -> Remover:
    return Remover(root, index)


@pytest.fixture(params=[entries.NAMESPACE, entries.OLD_NAMESPACE])
def name(request: pytest.FixtureRequest) -> ModuleName:
    return entries.module(1, request.param)


def write(root: CacheRoot, name: ModuleName, seed: int = 0) -> Path:
    return entries.write(root.path, name, entries.files(name, seed, wrapped=True))


def unmark(root: CacheRoot, remover: Remover, name: ModuleName) -> tuple[list[Evicted], dict[ModuleName, Kept]]:
    neff = root.inspect(name).neff
    assert neff is not None
    return remover.unmark({name: neff})


def test_one_that_cannot_be_looked_at_stays_and_the_others_go(
    root: CacheRoot, remover: Remover, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [entries.module(number) for number in range(3)]
    wanted = {}
    for name in names:
        write(root, name)
        wanted[name] = root.inspect(name).neff
    inspect = CacheRoot.inspect

    def inspect_unless_bad(self: CacheRoot, name: ModuleName) -> Inspection:
        if name == names[0]:
            raise OSError(errno.EIO, "Input/output error")
        return inspect(self, name)

    monkeypatch.setattr(CacheRoot, "inspect", inspect_unless_bad)
    gone, kept = remover.unmark({name: neff for name, neff in wanted.items() if neff is not None})
    assert [entry.name for entry in gone] == names[1:]
    assert kept == {names[0]: Kept.NOT_PERMITTED}


def test_all_of_it_goes(root: CacheRoot, index: Index, remover: Remover, name: ModuleName) -> None:
    folder = write(root, name)
    (gone,), kept = unmark(root, remover, name)
    assert not kept
    assert gone.size_bytes == sum(len(data) for data in entries.files(name, wrapped=True).values())
    assert not (folder / keys.ready_mark(name.namespace)).exists()
    assert (folder / "model.hlo_module.pb").exists(), "the rest later"
    assert index.unfinished_evictions(root.path) == [gone]
    assert remover.finish(gone) is Removal.REMOVED
    assert not folder.exists()
    assert index.unfinished_evictions(root.path) == []


def test_no_look_in_between_shows_a_ready_entry_without_all_its_files(
    root: CacheRoot, remover: Remover, name: ModuleName, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(root, name)
    whole, unlink, seen = {path.name for path in folder.iterdir()}, Path.unlink, 0

    def look() -> None:
        nonlocal seen
        files = {path.name for path in folder.iterdir()}
        if root.inspect(name).state is xla.State.READY:
            assert files == whole
        seen += 1

    def watched(path: Path, missing_ok: bool = False) -> None:
        look()
        unlink(path, missing_ok=missing_ok)
        look()

    monkeypatch.setattr(Path, "unlink", watched)
    (gone,), _ = unmark(root, remover, name)
    assert remover.finish(gone) is Removal.REMOVED
    assert seen > len(whole)


@pytest.mark.parametrize(
    ("how", "by"), [("open", "lease"), ("mapped", "lease"), ("another process", "lease"), ("another process", "proc")]
)
def test_what_is_in_use_stays(
    root: CacheRoot, remover: Remover, name: ModuleName, how: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "proc":
        monkeypatch.setattr(inuse, "_lease", lambda fd: False)
    neff = write(root, name) / xla.NEFF
    before = entries.read(root.path, name)
    script = "import sys; f = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    if how == "another process":
        with subprocess.Popen(
            [sys.executable, "-c", script, str(neff)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"open\n"
            outcome = unmark(root, remover, name)
            reader.communicate()
    else:
        with neff.open("rb") as file:
            if how == "open":
                outcome = unmark(root, remover, name)
            else:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if how == "mapped":
            outcome = unmark(root, remover, name)
            mapped.close()
    assert outcome == ([], {name: Kept.IN_USE})
    assert entries.read(root.path, name) == before
    assert unmark(root, remover, name)[0], "afterwards it goes"


def test_proc_shows_mapped_files() -> None:
    with Path(__file__).open("rb") as file:
        script = (
            "import mmap, sys; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ);"
            "f.close(); print('mapped', flush=True); sys.stdin.read()"
        )
        identity = os.fstat(file.fileno())
        with subprocess.Popen(
            [sys.executable, "-c", script, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"mapped\n"
            assert (identity.st_dev, identity.st_ino) in inuse._opened_by_others()
            reader.communicate()


def test_who_opened_it_before_reads_all_of_it(root: CacheRoot, remover: Remover) -> None:
    neff = write(root, NAME) / xla.NEFF
    whole = neff.read_bytes()
    (gone,), _ = unmark(root, remover, NAME)
    with neff.open("rb") as reader:  # saw the mark a moment ago
        assert remover.finish(gone) is Removal.REMOVED
        assert reader.read() == whole


def test_a_locked_or_changed_entry_stays(root: CacheRoot, remover: Remover) -> None:
    folder = write(root, NAME)
    neff = root.inspect(NAME).neff
    assert neff is not None
    (folder / xla.LOCK).touch()
    assert remover.unmark({NAME: neff}) == ([], {NAME: Kept.LOCKED})
    (folder / xla.LOCK).unlink()
    (folder / xla.NEFF).write_bytes(entries.neff_bytes(7))
    before = entries.read(root.path, NAME)
    assert remover.unmark({NAME: neff}) == ([], {NAME: Kept.NOT_READY})
    assert entries.read(root.path, NAME) == before


@pytest.mark.parametrize("what", ["ready", "inputs", "lock", "other file", "nothing"])
def test_what_somebody_makes_meanwhile_is_left_alone(
    root: CacheRoot, index: Index, remover: Remover, what: str
) -> None:
    folder = write(root, NAME)
    (gone,), _ = unmark(root, remover, NAME)
    if what == "ready":
        (folder / xla.DONE).touch()
    elif what == "inputs":
        (folder / "model.hlo_module.pb").unlink()
        (folder / "model.hlo_module.pb").write_bytes(b"traced again")
    elif what == "lock":
        (folder / xla.LOCK).touch()
    elif what == "other file":
        (folder / "notes.txt").write_bytes(b"mine")
    before = entries.read(root.path, NAME)
    outcome = remover.finish(gone)
    if what in ("other file", "nothing"):
        assert outcome is Removal.REMOVED
        assert entries.read(root.path, NAME) == ({"notes.txt": b"mine"} if what == "other file" else {})
        assert folder.exists() == (what == "other file")
    else:
        assert outcome is Removal.LEFT
        assert entries.read(root.path, NAME) == before
    assert index.unfinished_evictions(root.path) == []


def test_a_trainer_that_begins_in_the_last_moment_keeps_its_folder(
    root: CacheRoot, remover: Remover, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(root, NAME)
    (gone,), _ = unmark(root, remover, NAME)

    def trainer(point: str) -> None:
        if point == "eviction-emptied":
            (folder / "model.hlo_module.pb").write_bytes(b"traced again")

    monkeypatch.setattr(points, "hook", trainer)
    assert remover.finish(gone) is Removal.REMOVED
    assert entries.read(root.path, NAME) == {"model.hlo_module.pb": b"traced again"}


def test_nothing_goes_that_the_database_could_not_note(
    root: CacheRoot, index: Index, remover: Remover, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root, NAME)
    before = entries.read(root.path, NAME)

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(index, "note_evictions", full)
    with pytest.raises(sqlite3.OperationalError):
        unmark(root, remover, NAME)
    assert entries.read(root.path, NAME) == before


def test_no_file_goes_before_the_disk_has_that_the_mark_is_gone(
    root: CacheRoot, index: Index, remover: Remover, monkeypatch: pytest.MonkeyPatch, name: ModuleName
) -> None:
    folder = write(root, name)
    files = set(entries.read(root.path, name)) - {keys.ready_mark(name.namespace)}

    def broken(directory: Path) -> None:
        raise OSError(errno.EIO, "Input/output error", str(directory))

    with monkeypatch.context() as patched:
        patched.setattr(fsops, "sync_directory", broken)
        (gone,), kept = unmark(root, remover, name)
        assert (kept, remover.finish(gone)) == ({}, Removal.AGAIN)
        assert set(entries.read(root.path, name)) == files
        assert index.unfinished_evictions(root.path) == [gone], "it is tried again"
    assert remover.finish(gone) is Removal.REMOVED
    assert not folder.exists()
    assert index.unfinished_evictions(root.path) == []


@needs_root
@pytest.mark.parametrize("as_root_group", [True, False])
def test_what_we_may_not_remove_stays(root: CacheRoot, remover: Remover, as_root_group: bool, tmp_path: Path) -> None:
    """Readable but not writable, or not even readable."""
    folder = write(root, NAME)
    for above in [folder, *folder.parents]:
        if above.is_relative_to(tmp_path.parent.parent):
            above.chmod(0o750)
    user = User(uid=4321, gid=0 if as_root_group else 4321)
    assert user.run(lambda: remover._unmark(NAME)) == Kept.NOT_PERMITTED.value
    assert entries.read(root.path, NAME) == entries.files(NAME, wrapped=True)
