"""The keeper on real lock files, a real database and real processes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from neff.keys import LockId, ModuleName
from neff.protocol import FREE, READY
from neffd.compiles import keeper, lockfile, processes
from neffd.compiles.board import Board, Place, Program
from neffd.compiles.keeper import Directory, Keeper
from neffd.compiles.ledger import Held, Ledger, Seen
from neffd.compiles.stale import StaleLocks
from neffd.metrics import Metrics
from neffd.serve.status import Problems
from neffd.store.database import Database
from neffd.store.index import boot_id
from neffd.store.root import CacheRoot
from neffd.tasks import Tasks
from tests.harness import entries
from tests.harness.waiting import eventually
from tests.unit.clock import Clock
from tests.unit.waiting import until

# No other test process has it: a lock stays while any process on the machine names its module.
NAME = entries.module(10**9 + os.getpid())


class Host:
    """A keeper with what it needs; `start` runs it."""

    def __init__(self, folder: Path, *, clears: bool = True) -> None:
        self.folder = folder
        self.root = CacheRoot(folder / "cache")
        self.problems = Problems("cache")
        self.metrics, self.tasks = Metrics(), Tasks()
        self.workers = ThreadPoolExecutor(4)
        self.database = Database(folder / "state")
        self.nudges = 0
        self.own: set[Path] = set()
        self.compiled: list[tuple[Place, int, int, float | None]] = []
        self.removed: list[tuple[Place, str]] = []
        self.place = Place(str(self.root.path), NAME)
        self.lock = self.root.entry(NAME) / "model.hlo_module.pb.lock"
        self.stale = StaleLocks(
            {str(self.root.path): self.problems},
            self.tasks,
            self.metrics,
            self.workers,
            clears=clears,
            clock=time.monotonic,
            on_removed=lambda *removed: self.removed.append(removed),
        )
        self.keeper = Keeper(
            {str(self.root.path): Directory(self.root, self._locked, self._nudge)},
            Board(10, time.monotonic),
            Ledger(self.database),
            self.stale,
            self.workers,
            is_own_lock=self.own.__contains__,
            on_compiled=lambda *compiled: self.compiled.append(compiled),
        )

    def _locked(self) -> list[ModuleName]:
        return [NAME] if self.lock.exists() else []

    def _nudge(self) -> None:
        self.nudges += 1

    def make_lock(self) -> LockId:
        self.lock.parent.mkdir(parents=True, exist_ok=True)
        self.lock.touch()
        made = lockfile.identity(self.lock)
        assert made is not None
        return made

    async def note(self, *, held: Held | None = None, seen: Seen | None = None) -> None:
        """What an earlier daemon wrote down."""
        ledger = Ledger(self.database)
        if held is not None:
            ledger.held(self.place, held)
        if seen is not None:
            ledger.seen(self.place, seen)
        await ledger.flush()

    def start(self) -> None:
        self.tasks.start(self.keeper.run(), name="keeper")

    async def stop(self) -> None:
        assert await self.tasks.stop(10) == []
        self.workers.shutdown()
        self.database.close()


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    host = Host(tmp_path)
    yield host
    await host.stop()


def held(lock: LockId, pid: int, **changes: object) -> Held:
    known = Held(pid, os.getuid(), processes.start_time(pid), processes.pid_space(), boot_id(), lock)
    return known._replace(**changes)  # type: ignore[arg-type]


async def has_looked(host: Host) -> None:
    """Until the keeper has been once over everything."""
    await until(host.keeper.status, "it has looked")


@contextlib.contextmanager
def ended_process() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    yield process.pid


@contextlib.contextmanager
def naming(name: ModuleName) -> Iterator[subprocess.Popen[bytes]]:
    script = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script, name.key], stdin=subprocess.PIPE) as process:
        # It is there before its arguments are.
        eventually(lambda: processes.names(process.pid, name.key), "its arguments can be seen")
        yield process


async def test_a_lock_from_before_the_machines_last_start_is_removed(host: Host) -> None:
    await host.note(held=held(host.make_lock(), os.getpid(), boot_id="earlier"))
    host.start()
    await until(lambda: not host.lock.exists(), "it is removed")
    await until(lambda: host.nudges, "a fetch that it kept out may go in")
    assert host.removed == [(host.place, "it was made before this machine's last start")]


async def test_a_lock_that_was_only_seen_before_the_last_start_is_removed_where_no_other_host_can_be(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lockfile, "is_on_local_disk", lambda path: True)
    await host.note(seen=Seen(host.make_lock(), "earlier"))
    host.start()
    await until(lambda: host.removed, "it is removed")
    assert host.removed == [(host.place, "it was there before this machine's last start")]
    assert not host.lock.exists()


@pytest.mark.parametrize("why", ["shared", "this-boot", "another-file"])
async def test_a_lock_that_was_only_seen_stays_without_proof(
    host: Host, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(lockfile, "is_on_local_disk", lambda path: why != "shared")
    monkeypatch.setattr(keeper, "_SWEEP_S", 0.1)
    lock = host.make_lock()
    if why == "another-file":
        lock = lock._replace(ctime_ns=lock.ctime_ns - 1)
    await host.note(seen=Seen(lock, boot_id() if why == "this-boot" else "earlier"))
    host.start()
    await has_looked(host)
    assert host.lock.exists()


async def test_a_holder_that_ended_while_no_daemon_looked_is_known_to_be_gone(host: Host) -> None:
    with ended_process() as pid:
        await host.note(held=held(host.make_lock(), pid, start_time=1))
        host.start()
        await until(lambda: host.removed, "the lock is removed")
        assert host.removed == [(host.place, f"its maker, process {pid}, is gone")]
        assert not host.lock.exists()


async def test_a_lock_that_is_told_again_is_as_old_as_before(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = host.make_lock()
    host.keeper.took(host.place, lock, pid=os.getpid(), uid=os.getuid(), connection=1)
    monkeypatch.setattr(lockfile, "age_s", lambda lock: 1e9)  # the wall clock has jumped
    host.keeper.took(host.place, lock, pid=os.getpid(), uid=os.getuid(), connection=2)
    assert host.keeper.facts(host.place)["since_s"] < 1e6
    host.start()


async def test_a_number_that_another_process_has_now_proves_the_first_one_gone(host: Host) -> None:
    await host.note(held=held(host.make_lock(), os.getpid(), start_time=1))
    host.start()
    await until(lambda: host.removed, "the lock is removed")
    assert host.removed == [(host.place, f"its maker, process {os.getpid()}, is gone")]
    assert not host.lock.exists()


async def test_a_holder_of_another_pid_namespace_is_never_judged(host: Host) -> None:
    with ended_process() as pid:
        await host.note(held=held(host.make_lock(), pid, pid_space="1:2"))
        host.start()
        await has_looked(host)
        facts = host.keeper.facts(host.place)
        assert (facts["holder"], facts["pid"]) == ("process", None)
        assert host.lock.exists()


async def test_a_process_that_has_become_another_program_has_no_locks(host: Host) -> None:
    host.keeper.took(
        host.place, host.make_lock(), pid=os.getpid(), uid=os.getuid(), connection=1, program=Program(1, 5)
    )
    host.keeper.greeted(os.getpid(), Program(2, 6))
    await until(lambda: host.removed, "the lock is removed")
    assert host.removed == [(host.place, f"its maker, process {os.getpid()}, has replaced itself by another program")]
    assert not host.lock.exists()
    host.start()


@pytest.mark.parametrize(
    ("is_it", "held_by", "greets"),
    [
        (False, Program(1, 5), Program(2, 6)),  # not that process
        (True, Program(1, 5), Program(1, 6)),  # another thread, another connection
        (True, Program(1, 5), Program(2, 4)),  # what it was before, heard of late
        (True, Program(1, 5), None),
        (True, None, Program(2, 6)),
    ],
)
async def test_nothing_less_is_proof(host: Host, is_it: bool, held_by: Program | None, greets: Program | None) -> None:
    host.keeper.took(host.place, host.make_lock(), pid=os.getpid(), uid=os.getuid(), connection=1, program=held_by)
    host.keeper.greeted(os.getpid() if is_it else 0, greets)
    assert host.keeper.facts(host.place)["holder"] == "process"
    host.start()
    await has_looked(host)
    assert host.lock.exists()


@pytest.mark.parametrize("why", ["another-file", "another-user"])
async def test_only_the_makers_user_is_believed(host: Host, why: str) -> None:
    lock = host.make_lock()
    if why == "another-file":
        lock = lock._replace(ctime_ns=lock.ctime_ns + 1)
    uid = os.getuid() + (why == "another-user") * 4711 or 0
    host.keeper.took(host.place, lock, pid=os.getpid(), uid=uid, connection=1)
    assert host.keeper.facts(host.place)["holder"] == "unknown"


async def test_the_end_of_a_lock_is_believed_when_it_is_seen(host: Host) -> None:
    lock = host.make_lock()
    host.keeper.took(host.place, lock, pid=os.getpid(), uid=os.getuid(), connection=1)
    woken: list[int] = []
    waiter = host.keeper.wait(host.place, 0, lambda: woken.append(1))
    host.keeper.released(host.place, lock)
    assert (woken, host.keeper.look(host.place)) == ([], None)
    host.lock.unlink()
    host.keeper.released(host.place, lock._replace(ctime_ns=1))
    assert woken == []
    host.keeper.released(host.place, lock)
    assert (woken, host.keeper.look(host.place)) == ([1], FREE)
    host.keeper.leave(waiter)
    assert host.keeper.status() == []


async def test_a_lock_that_is_hidden_by_now_is_not_believed_to_be_gone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = host.make_lock()
    host.keeper.took(host.place, lock, pid=os.getpid(), uid=os.getuid(), connection=1)
    with monkeypatch.context() as closed:  # root sees through every folder
        closed.setattr(lockfile, "identity", lambda path: None)
        closed.setattr(lockfile, "is_hidden", lambda path: True)
        host.keeper.released(host.place, lock)
    assert host.keeper.facts(host.place)["holder"] == "process"
    host.start()


async def test_a_lock_that_the_file_system_does_not_show_for_a_moment_is_not_believed_to_be_gone(host: Host) -> None:
    with naming(entries.module(2)) as process:
        lock = host.make_lock()
        host.keeper.took(host.place, lock, pid=process.pid, uid=os.getuid(), connection=1)
        entry = host.lock.parent
        away = entry.rename(entry.with_name("away"))
        entry.symlink_to(entry.name)  # whatever is asked of it fails
        host.keeper.unlocked(host.place)
        host.keeper.released(host.place, lock)
        await host.keeper._sweep()
        assert host.keeper.facts(host.place)["pid"] == process.pid
        entry.unlink()
        away.rename(entry)
        process.kill()
        await until(lambda: not host.lock.exists(), "its end is seen")


async def test_a_new_lock_is_not_taken_for_the_one_that_was_just_removed(host: Host) -> None:
    """Its maker may be quicker to tell us than the thread that removed the old one."""
    old = host.make_lock()
    host.keeper.took(host.place, old, pid=os.getpid(), uid=os.getuid(), connection=1)
    host.lock.rename(host.lock.with_name("kept"))  # so that its inode is not used again
    new = host.make_lock()
    host.keeper.took(host.place, new, pid=os.getpid(), uid=os.getuid(), connection=2)
    host.stale.on_gone(host.place, old)
    assert host.keeper.facts(host.place)["holder"] == "process"
    host.lock.unlink()
    host.stale.on_gone(host.place, new)
    assert host.keeper.status() == []


async def test_a_compile_is_noted_with_its_time(host: Host) -> None:
    lock = host.make_lock()
    host.keeper.took(host.place, lock, pid=os.getpid(), uid=os.getuid(), connection=1)
    await asyncio.sleep(0.6)  # the shortest that counts
    entries.write(host.root.path, NAME, entries.files(NAME))
    host.lock.unlink()
    host.keeper.released(host.place, lock)
    assert host.keeper.look(host.place) == READY
    ((place, pid, uid, seconds),) = host.compiled
    assert (place, pid, uid) == (host.place, os.getpid(), os.getuid())
    assert seconds is not None
    assert seconds >= 0.5
    assert host.keeper.facts(host.place)["usually_s"] == pytest.approx(seconds, abs=0.1)


@pytest.mark.parametrize("is_taken_again", [False, True])
async def test_a_compile_counts_also_where_its_end_is_seen_before_it_is_told(host: Host, is_taken_again: bool) -> None:
    """A trainer may be held up between the two."""
    lock, began_at = host.make_lock(), time.monotonic() - 0.6
    host.keeper.took(host.place, lock, pid=os.getpid(), uid=os.getuid(), connection=1, at_s=began_at)
    entries.write(host.root.path, NAME, entries.files(NAME))
    host.lock.rename(host.lock.with_name("kept"))  # so that its inode is not used again
    host.keeper.unlocked(host.place)
    assert (host.compiled, host.keeper.status()) == ([], [])
    if is_taken_again:
        host.keeper.took(host.place, host.make_lock(), pid=os.getpid(), uid=os.getuid(), connection=2)
    for _ in range(2):
        host.keeper.released(host.place, lock)
        ((_, _, _, seconds),) = host.compiled
        assert seconds is not None
        assert seconds >= 0.6
    assert len(host.keeper.status()) == is_taken_again
    host.start()


@pytest.mark.parametrize("others", [1, 2])
async def test_a_compile_counts_also_where_others_tell_of_the_next_lock_first(host: Host, others: int) -> None:
    """Ranks that waited for it take the lock one after the other, each for a moment, on connections of their own."""
    lock, began_at = host.make_lock(), time.monotonic() - 0.6
    host.keeper.took(host.place, lock, pid=os.getpid(), uid=os.getuid(), connection=1, at_s=began_at)
    entries.write(host.root.path, NAME, entries.files(NAME))
    for number in range(others):
        host.lock.rename(host.lock.with_name(f"kept {number}"))  # so that its inode is not used again
        host.keeper.took(host.place, host.make_lock(), pid=os.getpid(), uid=os.getuid(), connection=2 + number)
    host.keeper.released(host.place, lock)
    ((_, _, _, seconds),) = host.compiled
    assert seconds is not None
    assert seconds >= 0.6
    assert len(host.keeper.status()) == 1, "the last one has it still"
    host.start()


@pytest.mark.parametrize("skew_s", [-1e9, 1e9])
@pytest.mark.parametrize("is_restarted", [False, True])
async def test_a_compile_is_measured_by_no_clock_that_may_jump(
    host: Host, monkeypatch: pytest.MonkeyPatch, skew_s: float, is_restarted: bool
) -> None:
    """The lock's date is a file server's, or the wall clock has jumped; who made it knows how long ago that was."""
    lock, now = host.make_lock(), time.time
    monkeypatch.setattr(time, "time", lambda: now() + skew_s)
    took = functools.partial(host.keeper.took, host.place, lock, pid=os.getpid(), uid=os.getuid())
    if is_restarted:
        await host.note(held=held(lock, os.getpid()))
        await host.keeper._restored()
    took(connection=1, at_s=time.monotonic() - 0.6)
    took(connection=2)
    await compiled(host, lock)
    ((_, _, _, seconds),) = host.compiled
    assert seconds is not None
    assert 0.6 <= seconds < 60


@pytest.mark.parametrize("at_s", [None, -1e9, 1e9])
async def test_where_nothing_measured_a_compile_its_time_is_unknown(
    host: Host, monkeypatch: pytest.MonkeyPatch, at_s: float | None
) -> None:
    """An older client, or one with a clock of its own."""
    lock, now = host.make_lock(), time.time
    monkeypatch.setattr(time, "time", lambda: now() + 1e6)
    host.keeper.took(host.place, lock, pid=os.getpid(), uid=os.getuid(), connection=1, at_s=at_s)
    await compiled(host, lock)
    assert [seconds for _, _, _, seconds in host.compiled] == [None]
    assert host.keeper.facts(host.place)["usually_s"] is None


async def compiled(host: Host, lock: LockId) -> None:
    entries.write(host.root.path, NAME, entries.files(NAME))
    host.lock.unlink()
    host.keeper.released(host.place, lock)
    host.start()


async def test_a_database_that_cannot_be_read_is_read_later(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    await host.note(held=held(host.make_lock(), os.getpid(), start_time=1))
    monkeypatch.setattr(keeper, "_AFTER_TROUBLE_S", 0.01)
    failures: list[int] = []
    read = host.database.run_blocking

    def fails_first(work: Any) -> Any:
        if len(failures) < 3:
            failures.append(1)
            raise sqlite3.OperationalError("database or disk is full")
        return read(work)

    monkeypatch.setattr(host.database, "run_blocking", fails_first)
    host.start()
    await until(lambda: not host.lock.exists(), "the lock is removed")
    assert len(failures) == 3


async def test_a_lock_of_our_own_is_no_unknown_one(host: Host) -> None:
    host.make_lock()
    host.own.add(host.lock)
    assert host.keeper.facts(host.place)["holder"] == "neffd"
    host.start()
    await asyncio.to_thread(host.database.run_blocking, lambda connection: None)
    assert host.problems.status() == []


async def test_a_process_whose_arguments_do_not_come_stops_nobody(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read from its memory, and whoever reads waits for its locks."""
    monkeypatch.setattr(processes, "_PROC", tmp_path / "proc")
    arguments = tmp_path / "proc" / "4711" / "cmdline"
    arguments.parent.mkdir(parents=True)
    arguments.write_text(NAME.key)
    lock, loop, turned = host.make_lock(), asyncio.get_running_loop(), threading.Event()
    host.stale.clear(host.place, host.lock, lock, "its maker is gone")
    await until(lambda: host.stale.at_work(host.place), "it is seen")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "fifo").rename(arguments)

    def answer_once_the_loop_has_turned() -> bool:
        answers = os.open(arguments, os.O_WRONLY)  # as soon as somebody reads
        loop.call_soon_threadsafe(turned.set)
        has_turned = turned.wait(5)
        arguments.unlink()
        os.close(answers)
        return has_turned

    assert await asyncio.to_thread(answer_once_the_loop_has_turned)
    await until(lambda: host.removed, "it is removed")


async def test_without_permission_to_remove_it_is_reported(tmp_path: Path) -> None:
    host = Host(tmp_path, clears=False)
    try:
        await host.note(held=held(host.make_lock(), os.getpid(), start_time=1))
        host.start()
        await until(host.problems.status, "it is reported")
        (problem,) = host.problems.status()
        assert problem["reason"] == "stale-lock"
        assert "is gone" in problem["detail"]
        assert problem["hint"] == f"rm {host.lock}"
        assert host.lock.exists()
        host.lock.unlink()
        host.keeper.unlocked(host.place)
        assert host.problems.status() == []
    finally:
        await host.stop()


async def test_a_lock_that_we_may_not_remove_is_not_looked_after_all_the_time(
    host: Host, aged: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, looks = host.make_lock(), []

    def naming_nobody(keys: list[str]) -> dict[str, dict[int, str]]:
        looks.append(keys)
        return {key: {} for key in keys}

    async def clear(lock: LockId) -> int:
        looks.clear()
        host.stale.clear(host.place, host.lock, lock, "its maker is gone")
        await until(lambda: not host.tasks, "it was tried")
        return len(looks)

    monkeypatch.setattr(processes, "naming", naming_nobody)
    with monkeypatch.context() as refused:  # root may
        refused.setattr(lockfile, "remove", lambda path, expected: lockfile.Removal.REFUSED)
        assert [await clear(lock), await clear(lock)] == [1, 0]
        assert "may not remove it" in host.problems.status()[0]["detail"]
        assert await clear(lock._replace(ctime_ns=1)) == 1, "another one"
        assert await clear(lock) == 1
        aged.pass_s(61)
        assert await clear(lock) == 1
    aged.pass_s(61)
    assert await clear(lock) == 1
    assert not host.lock.exists(), "it may be removed by now"


async def test_the_locks_of_a_killed_job_cost_few_looks_at_all_processes(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[set[str]] = []
    naming_as_it_is = processes.naming

    def counted(keys: set[str]) -> dict[str, dict[int, str]]:
        looks.append(keys)
        return naming_as_it_is(keys)

    monkeypatch.setattr(processes, "naming", counted)
    places = [Place(host.place.root, entries.module(number)) for number in range(64)]
    paths = [host.keeper._path(place) for place in places]
    with naming(places[5].name) as compiler:
        for place, path in zip(places, paths, strict=True):
            path.parent.mkdir(parents=True)
            path.touch()
            lock = lockfile.identity(path)
            assert lock is not None
            host.stale.clear(place, path, lock, "its maker is gone")
        await until(lambda: sum(path.exists() for path in paths) == 1, "all but one went")
        await until(lambda: host.stale.at_work(places[5]) == [compiler.pid], "for that somebody works")
        assert len(looks) <= 2
        compiler.kill()
        await until(lambda: not host.tasks, "its end is seen")
    assert not paths[5].exists()
    assert len(looks) <= 3


async def test_what_was_reported_of_a_lock_is_not_said_of_the_next(tmp_path: Path) -> None:
    """Somebody removes it as advised, and a trainer that waits takes it at once."""
    host = Host(tmp_path, clears=False)
    try:
        await host.note(held=held(host.make_lock(), os.getpid(), start_time=1))
        host.start()
        await until(host.problems.status, "it is reported")
        host.lock.unlink()
        (host.lock.parent / "other").touch()  # or the new one would get its inode
        second = host.make_lock()
        host.keeper.took(host.place, second, pid=os.getpid(), uid=os.getuid(), connection=1)
        assert host.problems.status() == []
        assert host.keeper.facts(host.place)["holder"] == "process"
    finally:
        await host.stop()


async def test_that_a_lock_is_gone_is_seen_however_long_the_machine_has_been_up(host: Host) -> None:
    for step in range(2_000):  # such a time less a pause is not always that pause ago
        uptime_s = 1.37 ** (step / 50) + step / 7
        host.keeper._clock = lambda uptime_s=uptime_s: uptime_s  # type: ignore[misc]
        assert host.keeper.look(host.place) == "free", uptime_s


@pytest.fixture
def aged(host: Host) -> Clock:
    """The clock by which unknown locks age."""
    clock = Clock()
    host.stale._clock = clock
    return clock


async def test_an_old_lock_of_nobody_is_reported_with_the_processes_to_look_at(
    host: Host, aged: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    suspects = {host.place: (host.lock, host.make_lock(), 60.0)}
    await host.stale.report(suspects)
    aged.pass_s(3600)
    with naming(NAME) as process:
        await host.stale.report(suspects)
        (problem,) = host.problems.status()
        assert str(process.pid) in problem["detail"]
        assert "60 min, which usually takes 60 s" in problem["detail"]
        assert not host.keeper.facts(host.place)["abandoned"]
        assert problem["hint"] == f"rm {host.lock}"
    aged.pass_s(61)
    await host.stale.report(suspects)
    (problem,) = host.problems.status()
    assert "no process that can be seen on this host names it" in problem["detail"]
    told = [record.message for record in caplog.records if "locked" in record.message]
    aged.pass_s(3600)
    await host.stale.report({host.place: (host.lock, suspects[host.place][1], 90.0)})
    (problem,) = host.problems.status()
    assert host.keeper.facts(host.place)["abandoned"]
    assert "121 min, which usually takes 90 s" in problem["detail"], "as it is by now"
    assert [record.message for record in caplog.records if "locked" in record.message] == told, "said once"
    await host.stale.report({})
    assert host.problems.status() == []


@pytest.mark.parametrize(("age_s", "usually_s"), [(500, None), (3000, 1200.0)])
async def test_a_lock_that_may_well_be_in_use_is_not_worth_a_word(
    host: Host, aged: Clock, age_s: int, usually_s: float | None
) -> None:
    suspects = {host.place: (host.lock, host.make_lock(), usually_s)}
    await host.stale.report(suspects)
    aged.pass_s(age_s)
    await host.stale.report(suspects)
    assert host.problems.status() == []


@pytest.mark.parametrize("made_years_ago", [1, 0, -1])
async def test_a_lock_is_as_old_as_we_know_it_whatever_the_wall_clock_says(
    host: Host, aged: Clock, made_years_ago: int
) -> None:
    lock = LockId(1, time.time_ns() - made_years_ago * 365 * 86_400 * 10**9)
    suspects = {host.place: (host.lock, lock, None)}
    await host.stale.report(suspects)
    aged.pass_s(599)
    await host.stale.report(suspects)
    assert host.problems.status() == [], "it may have been made a moment before"
    aged.pass_s(2)
    await host.stale.report(suspects)
    assert [problem["reason"] for problem in host.problems.status()] == ["stale-lock"]


@contextlib.contextmanager
def no_file_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_lock_is_neither_judged_nor_the_end_of_us_while_we_cannot_open_a_file(host: Host, aged: Clock) -> None:
    lock = host.make_lock()
    suspects = {host.place: (host.lock, lock, None)}
    await host.stale.report(suspects)
    aged.pass_s(3600)
    crashed: list[str] = []
    host.tasks._on_crash = lambda name, _: crashed.append(name)
    with naming(NAME) as process:
        with no_file_left():
            await host.stale.report(suspects)
            host.stale.clear(host.place, host.lock, lock, "its maker is gone")
            await until(lambda: not host.tasks, "it was tried")
        assert (host.problems.status(), crashed, host.lock.exists()) == ([], [], True)
        aged.pass_s(61)
        await host.stale.report(suspects)
        assert str(process.pid) in host.problems.status()[0]["detail"]
    host.stale.clear(host.place, host.lock, lock, "its maker is gone")
    await until(lambda: not host.lock.exists(), "it is tried again")


async def test_another_lock_of_the_same_name_is_as_new_as_any(host: Host, aged: Clock) -> None:
    for number in range(5):
        aged.pass_s(300)
        await host.stale.report({host.place: (host.lock, LockId(number // 2, 1), None)})
        assert host.problems.status() == []
