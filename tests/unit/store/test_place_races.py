"""Placing while trainers, readers and other daemons are at the same entry."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neff import keys
from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.store import fsops
from neffd.store.database import Database
from neffd.store.index import Index
from neffd.store.place import Placement, Placer
from neffd.store.root import CacheRoot
from tests.harness import entries
from tests.unit.store.conftest import stage

_ROUNDS = 15


@contextlib.contextmanager
def _running(work: Callable[[], None]) -> Iterator[None]:
    """`work` over and over in another thread, which starts before the body and ends after it."""
    stop, begun = threading.Event(), threading.Event()

    def loop() -> None:
        while not stop.is_set():
            work()
            begun.set()

    thread = threading.Thread(target=loop)
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _together(*works: Callable[[], None]) -> None:
    """Run all at the same time, in a thread each; the first failure is raised."""
    barrier, failures = threading.Barrier(len(works)), list[BaseException]()

    def run(work: Callable[[], None]) -> None:
        barrier.wait()
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.mark.parametrize("namespace", [entries.NAMESPACE, entries.OLD_NAMESPACE])
@pytest.mark.parametrize("case", ["absent", "held", "unlocked"])
def test_readers_never_see_a_part(placer: Placer, root: CacheRoot, namespace: str, case: str) -> None:
    names = [entries.module(number, namespace) for number in range(_ROUNDS)]
    mark = keys.ready_mark(namespace)
    whole = entries.files(names[0])["model.neff"]
    torn: list[ModuleName] = []

    def read_all() -> None:
        for name in names:
            folder = root.entry(name)
            if (folder / mark).exists() and (folder / "model.neff").read_bytes() != whole:
                torn.append(name)

    with _running(read_all):
        for name in names:
            if case != "absent":
                entries.write(
                    root.path, name, {"model.hlo_module.pb": b"x", **({xla.LOCK: b""} if case == "held" else {})}
                )
            staged = stage(root, entries.files(name))
            assert placer.place(name, staged, asker_holds_lock=case == "held") is Placement.PLACED
    assert torn == []


def test_a_trainer_that_takes_the_lock_at_the_same_moment(placer: Placer, root: CacheRoot) -> None:
    """Whoever has the lock writes; the other leaves the entry alone."""
    for number in range(_ROUNDS):
        name = entries.module(number)
        fetched, compiled = entries.files(name, seed=1), entries.files(name, seed=2)
        folder = entries.write(root.path, name, {"model.hlo_module.pb": fetched["model.hlo_module.pb"]})
        staged = stage(root, fetched)
        done: dict[str, object] = {}

        def place(name: ModuleName = name, staged: Path = staged, done: dict[str, object] = done) -> None:
            done["placement"] = placer.place(name, staged, asker_holds_lock=False)

        def train(
            name: ModuleName = name,
            folder: Path = folder,
            compiled: dict[str, bytes] = compiled,
            done: dict[str, object] = done,
        ) -> None:
            while not _lock(folder):
                pass
            done["compiled"] = not (folder / "model.done").exists()
            if done["compiled"]:
                entries.write(root.path, name, compiled)
            (folder / xla.LOCK).unlink()

        _together(place, train)
        assert done["compiled"] == (done["placement"] is not Placement.PLACED)
        assert entries.read(root.path, name) == (compiled if done["compiled"] else fetched)


@pytest.mark.parametrize("left", [None, {"model.hlo_module.pb": b"x"}])
def test_two_daemons_on_one_directory(
    placer: Placer, root: CacheRoot, tmp_path: Path, left: dict[str, bytes] | None
) -> None:
    database = Database(tmp_path / "other state")
    other = Placer(root, Index(database))
    try:
        for number in range(_ROUNDS):
            name = entries.module(number)
            if left is not None:
                entries.write(root.path, name, left)
            contents = [entries.files(name, seed=seed) for seed in (1, 2)]
            placements: dict[int, Placement] = {}

            def place(
                which: int,
                by: Placer,
                name: ModuleName = name,
                contents: list[dict[str, bytes]] = contents,
                placements: dict[int, Placement] = placements,
            ) -> None:
                placements[which] = by.place(name, stage(root, contents[which]), asker_holds_lock=False)

            _together(lambda place=place: place(0, placer), lambda place=place: place(1, other))  # type: ignore[misc]
            (winner,) = (which for which, placement in placements.items() if placement is Placement.PLACED)
            assert entries.read(root.path, name) == {**contents[winner], **(left or {})}
    finally:
        database.close()


def test_looks_while_a_lock_comes_and_goes(root: CacheRoot) -> None:
    """A file that vanishes between listing and looking does not make the entry vanish."""
    name = entries.module(1)
    folder = entries.write(root.path, name, {"model.hlo_module.pb": b"x"})

    def lock_and_release() -> None:
        (folder / xla.LOCK).touch()
        (folder / xla.LOCK).unlink()

    with _running(lock_and_release):
        looks = [root.inspect(name) for _ in range(2_000)]
    assert {look.state for look in looks} <= {xla.State.PENDING, xla.State.COMPILING}
    assert all(look.folder_exists for look in looks)


@pytest.mark.parametrize("placer", ["portable"], indirect=True)
def test_a_trainer_moves_in_before_a_portable_rename(
    placer: Placer, root: CacheRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = entries.module(1)
    rename = Path.rename

    def lock_first(source: Path, target: Path) -> Path:
        if target == root.entry(name):
            (target / xla.LOCK).touch()
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", lock_first)
    assert placer.place(name, stage(root, entries.files(name)), asker_holds_lock=False) is Placement.LOCKED
    assert entries.read(root.path, name) == {xla.LOCK: b""}


@pytest.mark.parametrize("portable", [False, True])
def test_rename_exclusive_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, portable: bool) -> None:
    if portable:
        monkeypatch.setattr(fsops, "_libc", object())
    for kind in (Path.mkdir, Path.touch):
        source, target = tmp_path / f"source {kind.__name__}", tmp_path / f"target {kind.__name__}"
        kind(source)
        kind(target)
        before = target.stat()
        with pytest.raises(FileExistsError):
            fsops.rename_exclusive(source, target)
        assert source.exists()
        assert target.stat() == before
        target.rmdir() if target.is_dir() else target.unlink()
        fsops.rename_exclusive(source, target)
        assert target.exists()
        assert not source.exists()


def _lock(folder: Path) -> bool:
    try:
        os.close(os.open(folder / xla.LOCK, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True
