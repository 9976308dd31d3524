"""Rule 1: the four ways in which a fetched entry gets into the cache directory, and everything that refuses it."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from pathlib import Path

import pytest

from neff.keys import ModuleName
from neffd import points
from neffd.layouts import xla
from neffd.store.index import Index
from neffd.store.locks import StockLocks
from neffd.store.place import Placement, Placer
from neffd.store.root import CacheRoot, Inspection
from neffd.store.sharing import CannotShare
from tests.harness import entries
from tests.unit.store.conftest import stage

GENERATIONS = pytest.mark.parametrize("namespace", [entries.NAMESPACE, entries.OLD_NAMESPACE])
NAME = entries.module(1)


@GENERATIONS
def test_a_folder_absent(placer: Placer, root: CacheRoot, namespace: str) -> None:
    name = entries.module(1, namespace)
    content = entries.files(name, wrapped=True)
    staged = stage(root, content)
    assert placer.place(name, staged, asker_holds_lock=False) is Placement.PLACED
    assert entries.read(root.path, name) == content
    assert _staged_files(root) == []


def test_b_the_asker_holds_the_lock(placer: Placer, root: CacheRoot, index: Index) -> None:
    folder = entries.write(root.path, NAME, {"model.hlo_module.pb": b"its own"})
    lock = folder / xla.LOCK
    lock.touch()
    its_lock = _identity(lock)
    staged = stage(root, entries.files(NAME))
    assert placer.place(NAME, staged, asker_holds_lock=True) is Placement.PLACED
    assert entries.read(root.path, NAME) == {**_with_own_input(NAME), xla.LOCK: b""}
    assert _identity(lock) == its_lock
    assert index.clear_claims() == []


@GENERATIONS
@pytest.mark.parametrize("left", [{}, {"model.hlo_module.pb": b"its own"}, {"model.log": b"Failed compilation"}])
@pytest.mark.parametrize("said_to_hold", [False, True])
def test_c_a_folder_without_a_lock(
    placer: Placer, root: CacheRoot, namespace: str, left: dict[str, bytes], said_to_hold: bool
) -> None:
    """Also where the asker's lock is gone by now: it is nobody's then."""
    name = entries.module(1, namespace)
    folder = entries.write(root.path, name, left)
    locked_at: dict[str, bool] = {}
    points.hook = lambda point: locked_at.update({point: (folder / xla.LOCK).exists()})
    staged = stage(root, entries.files(name))
    assert placer.place(name, staged, asker_holds_lock=said_to_hold) is Placement.PLACED
    assert entries.read(root.path, name) == {**entries.files(name), **left}
    assert set(locked_at) >= {"before-ready-mark", "after-ready-mark"}
    assert set(locked_at.values()) == {namespace == entries.NAMESPACE}
    assert _staged_files(root) == []


@GENERATIONS
@pytest.mark.parametrize("said_to_hold", [False, True])
@pytest.mark.parametrize("kept_bytes", [0, 5])
def test_an_input_that_is_cut_short_is_not_kept(
    placer: Placer, root: CacheRoot, namespace: str, said_to_hold: bool, kept_bytes: int
) -> None:
    """A trainer's disk was full, or it was killed while it wrote: nobody would ever write it again."""
    name = entries.module(1, namespace)
    content = entries.files(name)
    cut = {file: content[file][:kept_bytes] for file in xla.INPUTS if file in content}
    folder = entries.write(root.path, name, cut)
    if said_to_hold:
        (folder / xla.LOCK).touch()
    staged = stage(root, content)
    assert placer.place(name, staged, asker_holds_lock=said_to_hold) is Placement.PLACED
    (folder / xla.LOCK).unlink(missing_ok=True)
    assert entries.read(root.path, name) == content


def test_d_locked_by_somebody_else(placer: Placer, root: CacheRoot) -> None:
    folder = entries.write(root.path, NAME, {"model.hlo_module.pb": b"its own", xla.LOCK: b""})
    before = _facts(folder)
    staged = stage(root, entries.files(NAME))
    assert placer.place(NAME, staged, asker_holds_lock=False) is Placement.LOCKED
    assert _facts(folder) == before
    (folder / xla.LOCK).unlink()
    assert placer.place(NAME, staged, asker_holds_lock=False) is Placement.PLACED
    assert entries.read(root.path, NAME) == _with_own_input(NAME)


def test_a_lock_of_our_own_is_waited_for(placer: Placer, root: CacheRoot, index: Index) -> None:
    """An eviction holds it for a moment: the trainer that asks would compile what is here."""
    folder = entries.write(root.path, NAME, {"model.hlo_module.pb": b"its own"})
    staged = stage(root, entries.files(NAME))
    with ThreadPoolExecutor(1) as beside:
        with StockLocks(root, index).taken(folder / xla.LOCK) as is_ours:
            assert is_ours
            placing = beside.submit(placer.place, NAME, staged, asker_holds_lock=False)
            with pytest.raises(TimeoutError):
                placing.result(0.2)
        assert placing.result() is Placement.PLACED
    assert entries.read(root.path, NAME) == _with_own_input(NAME)


def test_a_folder_that_goes_in_the_middle_is_made_anew(placer: Placer, root: CacheRoot) -> None:
    """As at the end of an eviction."""
    folder = entries.write(root.path, NAME, {})
    inspect, once = CacheRoot.inspect, pytest.MonkeyPatch()

    def inspect_and_remove(self: CacheRoot, name: ModuleName) -> Inspection:
        looks = inspect(self, name)
        once.undo()
        folder.rmdir()
        return looks

    once.setattr(CacheRoot, "inspect", inspect_and_remove)
    assert placer.place(NAME, stage(root, entries.files(NAME)), asker_holds_lock=False) is Placement.PLACED
    assert entries.read(root.path, NAME) == entries.files(NAME)
    assert _staged_files(root) == []


@pytest.mark.parametrize("holds", [False, True])
def test_what_is_left_of_a_copy_is_not_placed_as_the_whole(placer: Placer, root: CacheRoot, holds: bool) -> None:
    """Somebody removes the cache just when the NEFF is in: a mark alone would have every trainer look for its NEFF."""
    folder = entries.write(root.path, NAME, {xla.LOCK: b""} if holds else {})

    def remove(point: str) -> None:
        if point == "before-ready-mark":
            points.hook = None
            shutil.rmtree(folder)

    points.hook = remove
    with pytest.raises(FileNotFoundError):
        placer.place(NAME, stage(root, entries.files(NAME)), asker_holds_lock=holds)
    assert not folder.exists()


@GENERATIONS
@pytest.mark.parametrize("holds", [False, True])
@pytest.mark.parametrize("extra", [{}, {xla.LOCK: b""}])
def test_a_ready_entry_is_never_written_again(
    placer: Placer, root: CacheRoot, namespace: str, holds: bool, extra: dict[str, bytes]
) -> None:
    name = entries.module(1, namespace)
    folder = entries.write(root.path, name, {**entries.files(name, seed=1), **extra})
    before = _facts(folder)
    staged = stage(root, entries.files(name, seed=2, wrapped=True))
    assert placer.place(name, staged, asker_holds_lock=holds) is Placement.ALREADY_READY
    assert _facts(folder) == before


def test_a_mark_without_a_neff_is_not_ready(placer: Placer, root: CacheRoot) -> None:
    entries.write(root.path, NAME, {"model.done": b""})
    assert placer.place(NAME, stage(root, entries.files(NAME)), asker_holds_lock=False) is Placement.PLACED
    assert entries.read(root.path, NAME) == entries.files(NAME)


def test_a_lock_that_replaced_ours_stays(placer: Placer, root: CacheRoot, index: Index) -> None:
    """`clear-locks` takes ours too; a trainer may have made its own since."""
    folder = entries.write(root.path, NAME, {"model.hlo_module.pb": b"its own"})

    def clear_and_lock(point: str) -> None:
        if point == "before-ready-mark":
            (folder / xla.LOCK).unlink()
            (folder / xla.LOCK).touch()

    points.hook = clear_and_lock
    placer.place(NAME, stage(root, entries.files(NAME)), asker_holds_lock=False)
    assert (folder / xla.LOCK).exists()
    assert index.clear_claims() == []


@pytest.mark.parametrize("linked", ["entry", "namespace"])
@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("holds", [False, True])
def test_a_link_is_never_followed(
    placer: Placer, root: CacheRoot, tmp_path: Path, linked: str, exists: bool, holds: bool
) -> None:
    outside = tmp_path / "outside it"
    if exists:
        outside.mkdir()
    link = root.entry(NAME) if linked == "entry" else root.entry(NAME).parent
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside)
    staged = stage(root, entries.files(NAME))
    with pytest.raises(CannotShare) as refusal:
        placer.place(NAME, staged, asker_holds_lock=holds)
    assert str(link) in refusal.value.hint
    assert not exists or list(outside.iterdir()) == []
    assert sorted(path.name for path in staged.iterdir()) == sorted(file + ".part" for file in entries.files(NAME))


def test_an_entry_that_is_a_file(placer: Placer, root: CacheRoot) -> None:
    root.entry(NAME).parent.mkdir()
    root.entry(NAME).touch()
    with pytest.raises(CannotShare):
        placer.place(NAME, stage(root, entries.files(NAME)), asker_holds_lock=False)


def _with_own_input(name: ModuleName) -> dict[str, bytes]:
    return {**entries.files(name), "model.hlo_module.pb": b"its own"}


def _facts(folder: Path) -> dict[str, tuple[int, int, int, int]]:
    facts = {path.name: path.lstat() for path in [folder, *folder.iterdir()]}
    return {file: (stat.st_ino, stat.st_mtime_ns, stat.st_size, stat.st_mode) for file, stat in facts.items()}


def _staged_files(root: CacheRoot) -> list[Path]:
    return [path for path in root.staging.rglob("*") if path.is_file()]


def _identity(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_ino, facts.st_mtime_ns
