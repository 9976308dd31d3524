"""Failed entries: which are set aside, how often, when not, and what is left of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neff.keys import ModuleName
from neffd.care import failed_entries, set_aside
from neffd.care.failed_entries import FailedEntries
from neffd.care.verdict import Policy
from neffd.layouts import xla
from neffd.metrics import Metrics
from neffd.publish.take import Trust
from neffd.serve.status import Problems
from neffd.store import fsops
from neffd.store.database import Database
from neffd.store.root import CacheRoot
from tests.harness import entries
from tests.unit.clock import Clock
from tests.unit.waiting import until

KILLED = b"[F137] neuronx-cc was forcibly killed"
BROKEN = b"[NCC_EVRF059] the graph is not supported"
SETTLE_S = 2.0


class Host:
    """One directory's failed entries being looked after, and what was told of them."""

    def __init__(
        self, root: CacheRoot, database: Database, workers: ThreadPoolExecutor, policy: Policy, trust: Trust | None
    ) -> None:
        self.root = root
        self.clock, self.wall = Clock(), Clock(2e9)
        self.metrics = Metrics()
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.problems = Problems("cache")
        self.failed = FailedEntries(
            root,
            database,
            self.metrics,
            workers,
            policy=policy,
            trust=trust or Trust.of(root.path, None, None),
            settle_s=SETTLE_S,
            note=lambda name, what, **facts: self.told.append((what, facts)),
            problems=self.problems,
            wall=self.wall,
            clock=self.clock,
        )

    def fail(self, name: ModuleName, log: bytes = KILLED, age_s: float = 60.0) -> Path:
        """What stock leaves of a failed compile, seen by the collector."""
        folder = entries.write(self.root.path, name, {"model.hlo_module.pb": b"x", "compile_flags.json": b"[]"})
        (folder / xla.FAILURE_LOG).write_bytes(log)
        os.utime(folder / xla.FAILURE_LOG, (self.wall.now_s - age_s,) * 2)
        self.look(name)
        return folder

    def reported(self) -> list[str]:
        return [problem["reason"] for problem in self.problems.status()]

    def look(self, name: ModuleName) -> None:
        self.failed.saw(name, self.root.inspect(name))

    def state(self, name: ModuleName) -> xla.State:
        return self.root.inspect(name).state

    def events(self, what: str) -> list[dict[str, Any]]:
        return [facts for told, facts in self.told if told == what]

    async def until_set_aside(self, times: int) -> None:
        await until(lambda: len(self.events("failure-set-aside")) == times, f"set aside {times} times")

    async def until_kept(self, name: ModuleName) -> str:
        await until(lambda: self.failed.kept(name), "kept")
        kept = self.failed.kept(name)
        assert kept is not None
        return kept.reason


@contextlib.asynccontextmanager
async def caring(
    root: CacheRoot,
    database: Database,
    workers: ThreadPoolExecutor,
    policy: Policy = Policy(set_aside=True, max_retries=3),  # noqa: B008, immutable
    trust: Trust | None = None,
) -> AsyncIterator[Host]:
    host = Host(root, database, workers, policy, trust)
    task = asyncio.create_task(host.failed.run())  # noqa: TID251
    try:
        yield host
        assert not task.done() or task.result() is None
    finally:
        task.cancel()
        await asyncio.wait({task})


def kept_files(root: CacheRoot) -> list[Path]:
    return sorted((root.staging / "failed").rglob("*.log"))


NAME = entries.module(1)


async def test_a_passing_failure_is_set_aside_and_stock_sees_a_pending_entry(
    root: CacheRoot, database: Database, workers: ThreadPoolExecutor
) -> None:
    async with caring(root, database, workers) as host:
        host.fail(NAME)
        await host.until_set_aside(1)
        assert host.state(NAME) is xla.State.PENDING
        (kept,) = kept_files(root)
        assert kept.read_bytes() == KILLED
        assert kept.parent == root.staging / "failed" / NAME.namespace / NAME.key
        (event,) = host.events("failure-set-aside")
        assert (event["reason"], event["retried"], event["kept_at"]) == ("out-of-memory", 1, str(kept))
        labels = {"action": "set-aside", "reason": "out-of-memory"}
        assert host.metrics.value("neffd_failed_compiles_total", **labels) == 1


async def test_a_diagnosed_failure_stays_with_its_reason(
    root: CacheRoot, database: Database, workers: ThreadPoolExecutor
) -> None:
    async with caring(root, database, workers) as host:
        folder = host.fail(NAME, BROKEN)
        assert await host.until_kept(NAME) == "diagnosed"
        assert (folder / xla.FAILURE_LOG).read_bytes() == BROKEN
        kept = host.failed.kept(NAME)
        assert kept is not None
        assert kept.text() == f"compiler-error: {BROKEN.decode()} (diagnosed)"
        assert kept.hint == f"rm {folder / xla.FAILURE_LOG}"
        for _ in range(3):  # looked at again and again, it is one failure
            host.look(NAME)
            await asyncio.sleep(0)
        assert len(host.events("failure-kept")) == 1
        (folder / xla.FAILURE_LOG).unlink()
        host.look(NAME)
        assert host.failed.kept(NAME) is None


async def test_the_bound_holds_over_restarts_and_ends_with_a_success(
    root: CacheRoot, database: Database, workers: ThreadPoolExecutor
) -> None:
    policy = Policy(set_aside=True, max_retries=3)
    for number in range(3):
        async with caring(root, database, workers, policy) as host:
            host.fail(NAME, KILLED + b"%d" % number)
            await host.until_set_aside(1)
            host.look(NAME)
    async with caring(root, database, workers, policy) as host:
        folder = host.fail(NAME)
        assert await host.until_kept(NAME) == "retries-used-up"
        kept = host.failed.kept(NAME)
        assert kept is not None
        assert kept.text().endswith("(retries-used-up, 3 retries)")
        other = entries.module(2)
        host.fail(other)
        await host.until_set_aside(1)

        entries.write(root.path, NAME, entries.files(NAME))
        host.look(NAME)
        await until(lambda: host.failed.retried(NAME) == 0, "counted from 0 again")
        for file in ("model.neff", "model.done", xla.FAILURE_LOG):
            (folder / file).unlink()
        host.look(NAME)
        host.fail(NAME, KILLED + b" again")
        await host.until_set_aside(2)


async def test_switched_off(root: CacheRoot, database: Database, workers: ThreadPoolExecutor) -> None:
    async with caring(root, database, workers, Policy(set_aside=False, max_retries=3)) as host:
        host.fail(NAME)
        assert await host.until_kept(NAME) == "set-aside-off"
        assert host.state(NAME) is xla.State.FAILED
        assert not kept_files(root)


async def test_not_before_it_has_settled_whatever_its_time_says(
    root: CacheRoot, database: Database, workers: ThreadPoolExecutor
) -> None:
    async with caring(root, database, workers) as host:
        host.fail(NAME, age_s=SETTLE_S / 2)
        late = entries.module(2)
        host.fail(late, age_s=-3600)  # another host's clock
        old = entries.module(3)
        host.fail(old)
        await host.until_set_aside(1)
        assert host.state(NAME) is host.state(late) is xla.State.FAILED
        host.wall.pass_s(SETTLE_S)
        host.look(NAME)
        await host.until_set_aside(2)
        assert host.state(late) is xla.State.FAILED
        host.clock.pass_s(SETTLE_S)
        host.look(late)
        await host.until_set_aside(3)


async def test_a_locked_entry_is_left_alone(root: CacheRoot, database: Database, workers: ThreadPoolExecutor) -> None:
    async with caring(root, database, workers) as host:
        folder = host.fail(NAME, age_s=0)  # seen, and too young
        (folder / xla.LOCK).touch()
        host.wall.pass_s(3600)
        host.look(NAME)
        other = entries.module(2)
        host.fail(other)
        await host.until_set_aside(1)
        assert (folder / xla.FAILURE_LOG).exists()
        (folder / xla.LOCK).unlink()
        host.look(NAME)
        await host.until_set_aside(2)


async def test_a_strangers_log_stays_and_the_problem_says_so(
    root: CacheRoot, database: Database, workers: ThreadPoolExecutor
) -> None:
    async with caring(root, database, workers, trust=Trust(frozenset({4711}), frozenset())) as host:
        host.fail(NAME)
        assert await host.until_kept(NAME) == "untrusted-owner"
        assert host.reported() == ["untrusted-owner"]
        (host.root.entry(NAME) / xla.FAILURE_LOG).unlink()
        host.look(NAME)
        assert host.reported() == []


@pytest.mark.parametrize(
    ("target", "reason"), [("rename", "cannot-remove"), ("open", "cannot-read")], ids=["folder", "file"]
)
async def test_what_may_not_be_read_or_removed_stays_with_the_command(
    root: CacheRoot,
    database: Database,
    workers: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    reason: str,
) -> None:
    def refuse(*_: object) -> None:  # root may do everything
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        if target == "rename":
            patch.setattr(Path, "rename", refuse)
        else:
            patch.setattr(fsops, "open_regular", refuse)
        for _ in range(3):  # as after starts of the daemon: what was not moved used up no retry
            async with caring(root, database, workers) as host:
                host.fail(NAME)
                assert await host.until_kept(NAME) == reason
                assert host.reported() == [reason]
                assert host.failed.retried(NAME) == 0
                assert not kept_files(root)
    async with caring(root, database, workers) as host:
        host.fail(NAME)
        await host.until_set_aside(1)
        assert host.failed.retried(NAME) == 1


async def test_once_it_may_be_read_it_is_judged_without_a_new_start(
    root: CacheRoot, database: Database, workers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    async with caring(root, database, workers) as host:
        with monkeypatch.context() as patch:
            patch.setattr(fsops, "open_regular", refuse)
            host.fail(NAME)
            assert await host.until_kept(NAME) == "cannot-read"
            host.look(NAME)
            host.fail(entries.module(2), b"")
            await until(lambda: host.failed.kept(entries.module(2)), "both were looked at")
            assert len(host.events("failure-kept")) == 2  # a second look says nothing again
            assert host.reported() == ["cannot-read"]
        host.look(NAME)
        await host.until_set_aside(1)
        assert host.reported() == ["cannot-read"]  # of the other one
        host.look(entries.module(2))
        await host.until_set_aside(2)
        assert host.reported() == []


async def test_a_disk_that_takes_no_record_is_tried_with_the_next_look_and_costs_no_retry(
    root: CacheRoot, database: Database, workers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[Path] = []

    def full(path: Path, *_: object) -> None:
        tries.append(path)
        raise OSError(28, "No space left on device")

    async with caring(root, database, workers) as host:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", full)
            host.fail(NAME, age_s=0)
            other = entries.module(2)
            host.fail(other, BROKEN)
            await host.until_kept(other)  # by now the first was seen, and is too young
            host.wall.pass_s(SETTLE_S)
            host.look(NAME)
            await until(lambda: tries, "tried")
            last = entries.module(3)
            host.fail(last, BROKEN)
            await host.until_kept(last)
            assert len(tries) == 1  # not with every turn
        assert host.failed.retried(NAME) == 0
        host.look(NAME)
        await host.until_set_aside(1)


async def test_a_database_that_cannot_be_read_at_the_start_is_read_later(
    root: CacheRoot, database: Database, workers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_blocking, failures = database.run_blocking, iter([sqlite3.OperationalError("database or disk is full")])

    def at_first_full(work: Any) -> Any:
        for failure in failures:
            raise failure
        return run_blocking(work)

    monkeypatch.setattr(database, "run_blocking", at_first_full)
    monkeypatch.setattr(failed_entries, "_AFTER_TROUBLE_S", 0.0)
    async with caring(root, database, workers) as host:
        host.fail(NAME)
        await host.until_set_aside(1)


async def test_a_failure_text_in_place_of_a_neff_is_moved_and_a_neff_never(
    root: CacheRoot, database: Database, workers: ThreadPoolExecutor
) -> None:
    failed, good = entries.module(1, entries.OLD_NAMESPACE), entries.module(2, entries.OLD_NAMESPACE)
    async with caring(root, database, workers) as host:
        entries.write(root.path, good, entries.files(good))
        folder = entries.write(
            root.path, failed, {**entries.files(failed), "model.neff": b"Failed compilation: " + KILLED}
        )
        for name in (good, failed):
            os.utime(root.entry(name) / "model.neff", (host.wall.now_s - 60,) * 2)
            host.look(name)
        await host.until_set_aside(1)
        assert not (folder / "model.neff").exists()
        assert host.state(failed) is xla.State.PENDING
        assert host.state(good) is xla.State.READY
        host.look(failed)
        folder = entries.write(root.path, failed, {"model.neff": b"Failed compilation: " + BROKEN})
        os.utime(folder / "model.neff", (host.wall.now_s - 60,) * 2)
        host.look(failed)
        assert await host.until_kept(failed) == "diagnosed"


async def test_links_are_no_records(
    root: CacheRoot, database: Database, workers: ThreadPoolExecutor, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(KILLED)
    async with caring(root, database, workers) as host:
        folder = entries.write(root.path, NAME, {"model.hlo_module.pb": b"x"})
        (folder / xla.FAILURE_LOG).symlink_to(elsewhere)
        host.look(NAME)
        host.fail(entries.module(2))
        await host.until_set_aside(1)
        assert elsewhere.read_bytes() == KILLED
        assert (folder / xla.FAILURE_LOG).is_symlink()


async def test_two_directories_count_apart(database: Database, workers: ThreadPoolExecutor, tmp_path: Path) -> None:
    one, two = CacheRoot(tmp_path / "one"), CacheRoot(tmp_path / "two")
    policy = Policy(set_aside=True, max_retries=1)
    async with caring(one, database, workers, policy) as first, caring(two, database, workers, policy) as second:
        for host in (first, second):
            host.fail(NAME)
            await host.until_set_aside(1)
            assert host.failed.retried(NAME) == 1


async def test_a_database_that_fails_touches_nothing(
    root: CacheRoot, database: Database, workers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with caring(root, database, workers) as host:
        host.fail(entries.module(2))
        await host.until_set_aside(1)

        tried, loop = asyncio.Event(), asyncio.get_running_loop()

        def full(work: object) -> None:
            loop.call_soon_threadsafe(tried.set)
            raise sqlite3.OperationalError("database or disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(database, "run_blocking", full)
            host.fail(NAME)
            await asyncio.wait_for(tried.wait(), 10)
            assert host.state(NAME) is xla.State.FAILED
        host.look(NAME)
        await host.until_set_aside(2)


def record_of(root: CacheRoot, name: ModuleName) -> set_aside.Record:
    record = set_aside.find(root, name)
    assert record is not None
    return record


def test_of_a_huge_log_both_ends_are_read(root: CacheRoot) -> None:
    folder = entries.write(root.path, NAME, {"model.hlo_module.pb": b"x"})
    with (folder / xla.FAILURE_LOG).open("wb") as writer:
        writer.write(b"the start\n")
        writer.truncate(2**33)  # takes no space
        writer.seek(0, os.SEEK_END)
        writer.write(b"\n" + KILLED)
    text = set_aside.read(record_of(root, NAME))
    assert text.startswith(b"the start")
    assert text.endswith(KILLED)
    assert len(text) <= 2 * 65_536 + 1


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=30
)
@given(sizes=st.lists(st.integers(0, 30), max_size=12))
def test_what_is_kept_is_bounded_and_the_newest_is_among_it(root: CacheRoot, sizes: list[int]) -> None:
    for old in kept_files(root):
        old.unlink()
    moved = []
    for number, size in enumerate(sizes):
        name = entries.module(number % 3)
        folder = entries.write(root.path, name, {"model.hlo_module.pb": b"x"})
        (folder / xla.FAILURE_LOG).write_bytes(b"x" * size)
        moved.append(set_aside.move(root, name, record_of(root, name)))
        set_aside.prune(root, most=4, most_bytes=50)
    left = kept_files(root)
    assert len(left) <= 4
    assert sum(path.stat().st_size for path in left) <= 50
    assert sorted(left, key=lambda path: path.name) == moved[len(moved) - len(left) :]
    assert left or not moved


def test_from_a_mount_of_its_own_it_is_renamed_in_place(root: CacheRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = entries.write(root.path, NAME, {"model.hlo_module.pb": b"x"})
    (folder / xla.FAILURE_LOG).write_bytes(KILLED)
    stock = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if target.is_relative_to(root.staging):
            raise OSError(18, "Invalid cross-device link")
        return stock(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    moved = set_aside.move(root, NAME, record_of(root, NAME))
    assert moved.parent == folder
    assert moved.read_bytes() == KILLED
    assert root.inspect(NAME).state is xla.State.PENDING
