"""What a crash of the machine may have torn is found at the next start, and nothing else is touched."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from neff.keys import ModuleName
from neffd.remotes.provenance import FileDigest
from neffd.store import aftercrash, fsops
from neffd.store.database import Database
from neffd.store.index import LOCAL, Index, from_remote
from neffd.store.root import CacheRoot, Inspection
from tests.harness import entries

NAME, OLD = entries.module(1), entries.module(1, entries.OLD_NAMESPACE)
_HLO = b"\x0a\x03jit\x1a\xe8\x07" + bytes([7]) * 1000


@pytest.fixture
def root(tmp_path: Path) -> CacheRoot:
    return CacheRoot(tmp_path / "cache")


@pytest.fixture
def before(database: Database, root: CacheRoot) -> Index:
    """The index of the life that the crash ended."""
    index = Index(database, boot="before")
    aftercrash.verify(root, index, [])
    return index


@pytest.fixture
def after(database: Database, before: Index) -> Index:
    return Index(database, boot="after")


def verify(root: CacheRoot, index: Index, wall: Callable[[], float] = time.time) -> dict[ModuleName, str]:
    names = [ModuleName(namespace, key) for namespace in root.namespaces() for key in root.module_keys(namespace)]
    return aftercrash.verify(root, index, names, wall=wall)


def make(root: CacheRoot, name: ModuleName = NAME, **files: bytes) -> Path:
    content = entries.files(name) | {"model.hlo_module.pb": _HLO, "wrapped_neff.hlo": _HLO * 4}
    return entries.write(root.path, name, content | {file.replace("__", "."): data for file, data in files.items()})


def note(index: Index, root: CacheRoot, origin: str, name: ModuleName = NAME) -> None:
    """As after a fetch, or after it was taken."""
    looks = root.inspect(name)
    assert looks.neff is not None
    digests = {file: FileDigest(*fsops.hash_file(root.entry(name) / file)) for file in looks.files}
    index.note_blocking(root.path, name, origin, looks.neff, digests)


def cut(path: Path, size_bytes: int) -> None:
    os.truncate(path, size_bytes)


def write_holed(path: Path) -> None:
    """The length arrived, the last blocks did not."""
    content = path.read_bytes()
    with path.open("wb") as file:
        file.write(content[:8192])
        file.truncate(len(content))


_TORN: dict[str, Callable[[Path], object]] = {
    "NEFF cut off": lambda folder: cut(folder / "model.neff", 8192),
    "NEFF holed": lambda folder: write_holed(folder / "model.neff"),
    "NEFF all zeroes": lambda folder: (folder / "model.neff").write_bytes(bytes(20_000)),
    "flags empty": lambda folder: cut(folder / "compile_flags.json", 0),
    "graph cut off": lambda folder: cut(folder / "model.hlo_module.pb", 512),
    "wrapped cut off": lambda folder: cut(folder / "wrapped_neff.hlo", 2048),
}


@pytest.mark.parametrize("how", _TORN)
def test_what_a_trainer_did_not_sync_and_is_torn_goes(root: CacheRoot, after: Index, how: str) -> None:
    _TORN[how](make(root))
    make(root, entries.module(2))
    assert list(verify(root, after)) == [NAME]
    assert not root.entry(NAME).exists()
    assert root.is_ready(entries.module(2))
    assert verify(root, after) == {}, "once"


@pytest.mark.parametrize("how", ["NEFF cut off", "NEFF holed", "graph cut off"])
def test_where_the_neff_is_its_own_mark(root: CacheRoot, after: Index, how: str) -> None:
    _TORN[how](make(root, OLD))
    assert list(verify(root, after)) == [OLD]
    assert not root.is_ready(OLD)


def test_what_was_read_before_is_compared(root: CacheRoot, before: Index, after: Index) -> None:
    names = [entries.module(number) for number in range(4)]
    for name, origin in zip(names, [LOCAL, from_remote("team")] * 2, strict=True):
        make(root, name)
        note(before, root, origin, name)
    for name in names[:2]:  # the disk has lost what it said was there, without a trace
        neff = root.entry(name) / "model.neff"
        facts = neff.stat()
        neff.write_bytes(neff.read_bytes()[:-100] + bytes(100))
        os.utime(neff, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    (root.entry(names[3]) / "model.hlo_module.pb").write_bytes(b"traced here")  # the trainer's own, not our promise
    assert set(verify(root, after)) == set(names[:2])
    assert root.is_ready(names[2])
    assert root.is_ready(names[3])


def test_nothing_is_looked_at_under_the_same_boot_or_for_the_first_time(root: CacheRoot, database: Database) -> None:
    os.truncate(make(root) / "model.neff", 100)
    for _ in range(2):
        assert verify(root, Index(database, boot="before")) == {}
    assert root.is_ready(NAME)


def test_what_was_made_long_before_is_not_looked_at(root: CacheRoot, after: Index) -> None:
    folder = make(root)
    os.truncate(folder / "model.neff", 8192)
    for file in folder.iterdir():
        os.utime(file, (1e9, 1e9))
    make(root, entries.module(2))
    assert verify(root, after) == {}


def test_a_date_in_the_future_hides_no_torn_entry(root: CacheRoot, after: Index) -> None:
    whole, torn = entries.module(2), entries.module(3)
    cut(make(root) / "model.neff", 8192)
    cut(make(root, torn) / "model.neff", 8192)
    make(root, whole)
    now = time.time()
    for name, at in ((whole, now + 3600), (torn, now + 1800)):
        os.utime(root.entry(name) / "model.neff", (at, at))
    assert set(verify(root, after, lambda: now)) == {NAME, torn}
    assert root.is_ready(whole)


def test_what_is_no_hlo_module_and_has_no_header_is_not_judged(root: CacheRoot, after: Index) -> None:
    make(root, model__neff=b"of another version", model__hlo_module__pb=b"text", wrapped_neff__hlo=b"\x0b\x0c")
    assert verify(root, after) == {}
    assert root.is_ready(NAME)


@pytest.mark.parametrize("ending", [b"\x08" + b"\xff" * 200_000, b"\x1a" + b"\xff" * 10])
def test_a_number_without_end_is_not_judged(root: CacheRoot, after: Index, ending: bytes) -> None:
    make(root, model__hlo_module__pb=_HLO + ending)
    assert verify(root, after) == {}
    assert root.is_ready(NAME)


@pytest.mark.parametrize(
    "ending", [b"\x08", b"\x08\xff", b"\x1a" + b"\xff" * 9, b"\x09" + bytes(7), b"\x0d" + bytes(3)]
)
def test_a_field_of_any_form_that_is_cut_off_is_seen(root: CacheRoot, after: Index, ending: bytes) -> None:
    make(root, model__hlo_module__pb=_HLO + ending)
    assert list(verify(root, after)) == [NAME]


@pytest.mark.parametrize("ending", [b"\x08\x00", b"\x08\xff\x01", b"\x09" + bytes(8), b"\x0d" + bytes(4), b"\x12\x01x"])
def test_a_field_of_any_form_that_is_whole_is_left_alone(root: CacheRoot, after: Index, ending: bytes) -> None:
    make(root, model__hlo_module__pb=_HLO + ending)
    assert verify(root, after) == {}


def test_of_a_locked_one_the_mark_goes_and_the_rest_is_its_holders(root: CacheRoot, after: Index) -> None:
    folder = make(root)
    os.truncate(folder / "model.neff", 8192)
    (folder / "model.hlo_module.pb.lock").touch()
    assert list(verify(root, after)) == [NAME]
    assert not root.is_ready(NAME)
    assert (folder / "model.hlo_module.pb.lock").exists()
    assert (folder / "model.hlo_module.pb").exists()


@pytest.mark.parametrize("where", ["file", "folder"])
def test_what_cannot_be_read_keeps_nothing_else_from_being_looked_at(
    root: CacheRoot, after: Index, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    make(root)
    torn = entries.module(2)
    cut(make(root, torn) / "model.neff", 8192)
    open_regular, inspect = fsops.open_regular, CacheRoot.inspect

    def broken(*_: object) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error")

    def open_unless_broken(path: Path, *rest: int) -> int:
        return broken() if where == "file" and NAME.key in str(path) else open_regular(path, *rest)

    def inspect_unless_broken(self: CacheRoot, name: ModuleName) -> Inspection:
        return broken() if where == "folder" and name == NAME else inspect(self, name)

    monkeypatch.setattr(fsops, "open_regular", open_unless_broken)
    monkeypatch.setattr(CacheRoot, "inspect", inspect_unless_broken)
    assert list(verify(root, after)) == [torn]
    monkeypatch.undo()
    assert root.is_ready(NAME)
    assert verify(root, after) == {}, "once"
