"""Room in a cache directory: kept within limits, reserved for downloads, with a word on why it cannot be had."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from neff.keys import ModuleName
from neffd.metrics import Metrics
from neffd.store import space as space_module
from neffd.store.database import Database
from neffd.store.eviction import Limits, Policy
from neffd.store.index import Evicted, Index
from neffd.store.root import CacheRoot
from neffd.store.space import DiskFull, Space
from tests.harness import entries
from tests.harness.waiting import eventually
from tests.unit.waiting import until

_SIZE = 100_000
_DAY = 86_400.0
NOW = 1_800_000_000.0


class Room:
    """A cache directory with a Space, on a file system that has as much room as a test says."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.root = CacheRoot(folder / "cache")
        self.database = Database(folder / "state")
        self.index = Index(self.database)
        self.metrics = Metrics()
        self.problems: dict[str, str] = {}
        self.gone: list[ModuleName] = []
        self.copies: dict[ModuleName, tuple[int, int]] = {}
        self.asked: list[set[ModuleName]] = []
        self.denied: set[ModuleName] = set()
        self.is_silent = False
        self.meanwhile: Callable[[], None] = lambda: None
        self.pinned: set[ModuleName] = set()
        self.settling: set[ModuleName] = set()
        self.workers = ThreadPoolExecutor(2)
        self.now = NOW
        self.space = Space(
            self.root,
            self.index,
            self.metrics,
            self.workers,
            limits=options.pop("limits"),
            policy=Policy(**options),
            copies=lambda name: self.copies.get(name, (1, 0)),
            confirmed=self._confirmed,
            is_settling=self.settling.__contains__,
            pinned=lambda: self.pinned,
            on_evicted=self.gone.append,
            on_problem=self._problem,
            on_healed=self._healed,
            wall=lambda: self.now,
            grace_s=0.0,
        )

    async def _confirmed(self, names: Collection[ModuleName]) -> set[ModuleName]:
        """As the remote would: what it denies is not believed to be there any more."""
        self.asked.append(set(names))
        self.meanwhile()
        if self.is_silent:
            return set()
        self.copies |= dict.fromkeys(self.denied.intersection(names), (0, 0))
        return set(names) - self.denied

    def _problem(self, reason: str, detail: str, hint: str) -> None:
        self.problems.setdefault(reason, detail)

    def _healed(self, reason: str) -> None:
        self.problems.pop(reason, None)

    def write(self, number: int, idle_s: float = _DAY) -> ModuleName:
        """An entry of `_SIZE` bytes, made and read `idle_s` before now."""
        name = entries.module(number)
        content = entries.files(name, seed=number)
        rest = sum(len(data) for file, data in content.items() if file != "model.neff")
        folder = entries.write(self.root.path, name, content | {"model.neff": entries.neff_bytes(number, _SIZE - rest)})
        os.utime(folder / "model.neff", (self.now - idle_s, self.now - idle_s))
        self.look(name)
        return name

    def look(self, name: ModuleName) -> bool:
        return self.space.saw(name, self.root.inspect(name))

    def here(self) -> set[int]:
        """Numbers of the entries that are ready."""
        return {number for number in range(100) if self.root.is_ready(entries.module(number))}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.space.run())  # noqa: TID251
        try:
            yield
            assert not task.done() or task.result() is None
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def close(self) -> None:
        await asyncio.to_thread(self.workers.shutdown)
        await asyncio.to_thread(self.database.close)


@contextlib.asynccontextmanager
async def room(folder: Path, **options: Any) -> AsyncIterator[Room]:
    made = await asyncio.to_thread(lambda: Room(folder, **options))
    try:
        yield made
    finally:
        await made.close()


def _ten(held: int = 10) -> Limits:
    return Limits(max_bytes=_SIZE * held)


async def test_what_is_wanted_while_remotes_are_asked_stays(tmp_path: Path) -> None:
    """They take seconds to answer, and a run may begin, or a trainer ask, in them."""
    async with room(tmp_path, limits=_ten()) as made:
        names = [made.write(number, idle_s=_DAY * (20 - number)) for number in range(10)]

        def begin() -> None:
            made.pinned.add(names[0])
            made.space.used(names[1])

        made.meanwhile = begin
        async with made.running():
            await until(lambda: len(made.gone) == 2, "two go")
        assert made.here() == {0, 1, *range(4, 10)}


async def test_the_longest_unused_go_until_low_water(tmp_path: Path) -> None:
    async with room(tmp_path, limits=_ten()) as made:
        for number in range(10):
            made.write(number, idle_s=_DAY * (20 - number))
        async with made.running():
            await until(lambda: len(made.gone) == 2, "two go")
            entries_left = {"cache_dir": str(made.root.path)}
            await until(lambda: made.metrics.value("neffd_cache_entries", **entries_left) == 8, "and are counted")
        assert made.here() == set(range(2, 10))
        assert not (made.root.entry(entries.module(0))).exists()
        assert made.space.status()["bytes"] == _SIZE * 8
        assert made.metrics.value("neffd_evicted_bytes_total") == _SIZE * 2
        assert made.space.status()["evicted_entries"] == 2
        assert made.problems == {}


async def test_what_was_read_after_the_last_scan_stays_and_another_goes(tmp_path: Path) -> None:
    async with room(tmp_path, limits=_ten()) as made:
        first, *_ = [made.write(number, idle_s=_DAY * (20 - number)) for number in range(10)]
        neff = made.root.entry(first) / "model.neff"
        os.utime(neff, (made.now - 5, neff.stat().st_mtime))
        async with made.running():
            await until(lambda: len(made.gone) == 2, "others go")
            async with made.space._one_at_a_time:
                pass
        assert made.here() == {0, *range(3, 10)}


async def test_a_question_is_a_use_and_is_remembered(tmp_path: Path) -> None:
    async with room(tmp_path, limits=_ten()) as made:
        names = [made.write(number, idle_s=_DAY * (20 - number)) for number in range(9)]
        made.space.used(names[0])
        async with made.running():
            await asyncio.to_thread(eventually, lambda: made.index.uses(made.root.path), "written down")
        again = Space(
            made.root,
            made.index,
            made.metrics,
            made.workers,
            limits=_ten(9),
            policy=Policy(),
            copies=lambda name: (1, 0),
            confirmed=made._confirmed,
            is_settling=lambda name: False,
            wall=lambda: made.now,
            grace_s=0.0,
        )
        made.space = again
        for name in names:
            made.look(name)
        async with made.running():
            await until(lambda: made.here() == {0, *range(3, 9)}, "the asked for one stays")


async def test_every_reason_that_keeps_entries_is_shown(tmp_path: Path) -> None:
    async with room(tmp_path, limits=_ten(4)) as made:
        pinned, settling, alone, away, recent, locked, in_use, pending = (made.write(number) for number in range(8))
        made.pinned.add(pinned)
        made.settling.add(settling)
        made.copies |= {alone: (0, 0), away: (0, 1)}
        made.space.used(recent)
        (made.root.entry(locked) / "model.hlo_module.pb.lock").touch()
        (made.root.entry(pending) / "model.done").unlink()
        for name in (locked, pending):
            made.look(name)
        with (made.root.entry(in_use) / "model.neff").open("rb"):
            async with made.running():
                await until(lambda: made.space.status()["reason"], "it is said")
                status = made.space.status()
                assert status["reason"] == "over-limit"
                assert status["kept"] == dict.fromkeys(
                    [
                        "in-use",
                        "locked",
                        "not-ready",
                        "not-shared",
                        "pinned",
                        "recently-used",
                        "remote-away",
                        "waiting-for-upload",
                    ],
                    1,
                )
                assert set(made.problems) == {"over-limit"}
                assert "1 in-use" in made.problems["over-limit"]
                labels = {"cache_dir": str(made.root.path), "reason": "pinned"}
                assert made.metrics.value("neffd_not_evicted", **labels) == 1
                assert made.gone == []
                made.pinned.clear()
                made.settling.clear()
                made.copies.clear()
                made.space.scanned([entries.module(number) for number in range(8)])
                await until(lambda: made.space.status()["reason"] is None or len(made.gone) == 4, "what may go does")
        assert made.problems == {} or made.here() == {4, 5, 6}


async def test_what_a_remote_denies_when_it_is_asked_stays_and_others_go(tmp_path: Path) -> None:
    """What was only believed to be there, as a folder without a NEFF makes us."""
    async with room(tmp_path, limits=_ten()) as made:
        names = [made.write(number, idle_s=_DAY * (20 - number)) for number in range(10)]
        made.denied = {names[0], names[2]}
        async with made.running():
            await until(lambda: len(made.gone) == 2, "two go")
        assert made.gone == [names[1], names[3]]
        assert made.asked == [set(names[:2]), {names[2]}, {names[3]}], "each once, and only what would go"


async def test_what_nobody_could_confirm_stays_until_somebody_does(tmp_path: Path) -> None:
    async with room(tmp_path, limits=_ten(4)) as made:
        for number in range(5):
            made.write(number)
        made.is_silent = True
        async with made.running():
            await until(lambda: made.space.status()["kept"] == {"remote-away": 5}, "it is said")
            assert made.gone == []
            made.is_silent = False
            made.space.scanned(list(map(entries.module, range(5))))
            await until(lambda: made.gone, "may go")


async def test_what_may_go_unshared_is_the_dearer_if_a_remote_denies_it(tmp_path: Path) -> None:
    async with room(tmp_path, limits=_ten(), evict_unshared=True) as made:
        names = [made.write(number, idle_s=_DAY * (20 - number)) for number in range(10)]
        made.denied = set(names[:9])
        async with made.running():
            await until(lambda: len(made.gone) == 2, "two go")
        assert names[9] in made.gone, "the only one that could be fetched again"


async def test_an_entry_in_the_journal_stays(tmp_path: Path) -> None:
    async with room(tmp_path, limits=_ten(1)) as made:
        name = made.write(1)
        query = (
            "INSERT INTO outbox (root, namespace, key, folder, provenance, size_bytes, file_count, existing, queued_at)"
            " VALUES (?, ?, ?, '', '', 0, 0, 0, 0)"
        )
        await made.database.run(lambda connection: connection.execute(query, (str(made.root.path), *name)))
        async with made.running():
            await until(lambda: made.space.status()["kept"] == {"waiting-for-upload": 1}, "it stays")
        assert made.here() == {1}


async def test_what_an_earlier_life_began_is_finished(tmp_path: Path) -> None:
    async with room(tmp_path, limits=Limits()) as made:
        name = made.write(1)
        neff = made.root.inspect(name).neff
        assert neff is not None
        await asyncio.to_thread(made.space._remover.unmark, {name: neff})
        async with made.running():
            await until(lambda: made.gone == [name], "finished")
        assert not made.root.entry(name).exists()


async def test_an_entry_on_its_way_out_is_shown_to_nobody(tmp_path: Path) -> None:
    """Else the look at a graph without its NEFF would bring it back at once."""
    async with room(tmp_path, limits=_ten(1)) as made:
        made.space._grace_s = 3600.0
        name, other = made.write(1), made.write(2)
        async with made.running():
            await until(lambda: made.here() == set(), "the marks are gone")
            assert not made.look(name)
            assert not made.look(other)
            assert made.look(made.write(3))


class Disk:
    """What `statvfs` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: CacheRoot, capacity_bytes: int) -> None:
        def statvfs(path: object) -> SimpleNamespace:
            used = sum(file.stat().st_size for file in root.path.rglob("*") if file.is_file()) + self.others_bytes
            return SimpleNamespace(
                f_blocks=capacity_bytes, f_frsize=1, f_bavail=max(0, capacity_bytes - used), f_flag=self.flags
            )

        self.others_bytes = 0
        self.flags = 0
        monkeypatch.setattr(space_module, "os", SimpleNamespace(statvfs=statvfs, ST_NOATIME=os.ST_NOATIME))


async def test_room_is_made_for_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with room(tmp_path, limits=Limits(min_free_bytes=_SIZE)) as made:
        Disk(monkeypatch, made.root, _SIZE * 10)
        for number in range(8):
            made.write(number, idle_s=_DAY * (20 - number))
        async with made.space.reserve(_SIZE * 2):
            assert len(made.here()) <= 7
            assert 0 not in made.here()
            with pytest.raises(DiskFull, match="would leave less than"):
                async with made.space.reserve(_SIZE * 9):
                    raise AssertionError
        assert made.space._reserved_bytes == 0


async def test_nothing_goes_for_what_has_no_room_anyway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the size that a stranger states for an entry of a shared directory."""
    async with room(tmp_path, limits=Limits(min_free_bytes=_SIZE * 4)) as made:
        Disk(monkeypatch, made.root, _SIZE * 20)
        for number in range(10):
            made.write(number)
        made.copies[entries.module(0)] = (0, 0)  # nobody else has it: it stays
        for size_bytes in (10**15, _SIZE * 16):
            with pytest.raises(DiskFull):
                async with made.space.reserve(size_bytes):
                    pass
        assert made.here() == set(range(10))
        async with made.space.reserve(_SIZE * 12):
            assert made.gone


async def test_nothing_goes_for_what_has_no_room_by_what_remotes_say_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with room(tmp_path, limits=Limits(min_free_bytes=_SIZE * 4)) as made:
        Disk(monkeypatch, made.root, _SIZE * 20)
        names = [made.write(number, idle_s=_DAY * (20 - number)) for number in range(10)]
        made.denied = {names[9]}  # believed to be there until somebody asks
        with pytest.raises(DiskFull):
            async with made.space.reserve(_SIZE * 16):
                pass
        assert made.here() == set(range(10))
        async with made.space.reserve(_SIZE * 15):
            assert made.here() == {9}


async def test_downloads_at_once_share_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with room(tmp_path, limits=Limits(min_free_bytes=_SIZE)) as made:
        Disk(monkeypatch, made.root, _SIZE * 10)
        both = asyncio.Event()
        outcomes = []

        async def download() -> None:
            try:
                async with made.space.reserve(_SIZE * 6):
                    await both.wait()
                    outcomes.append("fits")
            except DiskFull:
                outcomes.append("full")
                both.set()

        await asyncio.gather(download(), download())
        assert sorted(outcomes) == ["fits", "full"]


async def test_a_disk_that_others_fill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with room(tmp_path, limits=Limits(min_free_bytes=_SIZE)) as made:
        disk = Disk(monkeypatch, made.root, _SIZE * 10)
        name = made.write(1)
        made.copies[name] = (0, 0)
        disk.others_bytes = _SIZE * 9
        async with made.running():
            await until(lambda: "disk-nearly-full" in made.problems, "said")
            assert made.problems["disk-nearly-full"] == "nothing more can be evicted: 1 not-shared"
            disk.others_bytes = 0
            made.space.scanned([name])
            await until(lambda: made.problems == {}, "over")


async def test_a_disk_that_others_emptied_is_said_well_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space_module, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(space_module, "_MOST_LOOKS_WHILE_BLOCKED", 10**9)
    async with room(tmp_path, limits=Limits(min_free_bytes=_SIZE)) as made:
        disk = Disk(monkeypatch, made.root, _SIZE * 10)
        disk.others_bytes = _SIZE * 10
        async with made.running():
            await until(lambda: "disk-nearly-full" in made.problems, "said")
            disk.others_bytes = 0
            await until(lambda: made.problems == {}, "over")


async def test_a_disk_that_has_room_again_beside_another_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with room(tmp_path, limits=Limits(max_bytes=_SIZE, min_free_bytes=_SIZE)) as made:
        disk = Disk(monkeypatch, made.root, _SIZE * 10)
        names = [made.write(number) for number in range(2)]
        made.copies |= dict.fromkeys(names, (0, 0))
        disk.others_bytes = _SIZE * 9
        async with made.running():
            await until(lambda: set(made.problems) == {"disk-nearly-full"}, "said")
            disk.others_bytes = 0
            made.pinned.add(names[0])
            made.space.scanned(names)
            await until(lambda: set(made.problems) == {"over-limit"}, "only what is left of it")
            assert made.problems["over-limit"] == "nothing more can be evicted: 1 not-shared, 1 pinned"
            disk.others_bytes = _SIZE * 9
            made.space.scanned(names)
            await until(lambda: set(made.problems) == {"disk-nearly-full"}, "and back")


async def test_it_says_where_last_uses_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with room(tmp_path, limits=Limits()) as made:
        disk = Disk(monkeypatch, made.root, _SIZE * 10)
        async with made.running():
            await until(lambda: made.space.status()["free_bytes"], "measured")
            assert made.space.status()["last_use_from"] == "reads"
            disk.flags = os.ST_NOATIME
            made.space.scanned([])
            await until(lambda: made.space.status()["last_use_from"] == "questions", "mounted noatime")


async def test_what_runs_use_takes_room_that_nothing_else_can_have(tmp_path: Path) -> None:
    async with room(tmp_path, limits=Limits(max_bytes=5 * _SIZE, high=1.0, low=0.8)) as made:
        first, second = made.write(1), made.write(2)
        assert made.space.room_bytes([]) == 4 * _SIZE
        assert made.space.room_bytes([first, second, entries.module(9)]) == 2 * _SIZE
        for number in range(3, 8):
            made.write(number)
        assert made.space.room_bytes(list(map(entries.module, range(8)))) == 0
    async with room(tmp_path, limits=Limits()) as made:
        assert made.space.room_bytes([]) is None


async def test_of_what_is_evicted_nothing_stays_in_the_index(tmp_path: Path) -> None:
    async with room(tmp_path, limits=_ten()) as made:
        names = [made.write(number, idle_s=_DAY * (20 - number)) for number in range(10)]
        for name in names:
            neff = made.root.inspect(name).neff
            assert neff is not None
            await asyncio.to_thread(made.index.note_blocking, made.root.path, name, "remote:hub", neff, {}, 60.0)
        await asyncio.to_thread(made.index.note_uses, made.root.path, dict.fromkeys(names, NOW - _DAY * 30))
        async with made.running():
            await until(lambda: len(made.gone) == 2, "two go")
            async with made.space._one_at_a_time:  # what it does when they are gone is done
                pass
        left = set(names) - set(made.gone)
        assert set(await asyncio.to_thread(made.index.known_of, made.root.path, names)) == left
        for known in (made.index.compile_seconds, made.index.uses):
            assert set(await asyncio.to_thread(known, made.root.path)) == left


async def test_what_is_noted_of_one_that_has_come_again_stays(tmp_path: Path) -> None:
    async with room(tmp_path, limits=_ten()) as made:
        name = made.write(1)
        before = made.root.inspect(name)
        files = {file: (facts.inode, facts.mtime_ns) for file, facts in before.files.items()}
        assert before.neff is not None
        neff = dataclasses.replace(before.neff, inode=before.neff.inode + 1)
        await asyncio.to_thread(made.index.note_blocking, made.root.path, name, "remote:hub", neff, {})
        gone = [Evicted(name, files, before.size_bytes)]
        await asyncio.to_thread(made.index.forget_evicted, made.root.path, gone)
        assert await asyncio.to_thread(made.index.known, made.root.path, name)
