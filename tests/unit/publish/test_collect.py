"""Finding ready entries: through events, without them, and through whatever happens to the directory meanwhile."""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from watchdog.observers.inotify import InotifyObserver
from watchdog.utils import BaseThread

from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.publish import collect
from neffd.publish.journal import Journal
from neffd.publish.take import take
from neffd.publish.watch import MAX_ENTRY_WATCHES
from neffd.retry import Backoff
from neffd.store import aftercrash
from neffd.store.database import Database
from neffd.store.index import Index, Known
from neffd.store.root import CacheRoot
from tests.harness import entries
from tests.unit.publish.conftest import Collecting, collecting, taken_names
from tests.unit.store.as_user import needs_root
from tests.unit.waiting import until

WITHIN_S = 5.0  # the promise is a second; the machine may be busy
_FULL = "CREATE TEMP TRIGGER full BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"


def start_compile(root: CacheRoot, number: int, namespace: str = entries.NAMESPACE) -> Path:
    """What stock leaves while it compiles."""
    folder = entries.write(root.path, entries.module(number, namespace), {"model.hlo_module.pb": b"x"})
    (folder / xla.LOCK).touch()
    return folder


def finish_compile(folder: Path, number: int) -> None:
    content = entries.files(entries.module(number))
    for file in ("compile_flags.json", "model.neff", "model.done"):
        (folder / file).write_bytes(content[file])
    (folder / xla.LOCK).unlink()


async def test_an_entry_written_slowly_in_place_is_found_when_it_is_ready_and_not_before(
    root: CacheRoot, index: Index, journal: Journal
) -> None:
    async with collecting(root, index, journal) as host:
        folder = start_compile(root, 1)
        await host.until(lambda: host.collector.counts["compiling"] == 1, "the lock is seen", WITHIN_S)
        neff = entries.files(entries.module(1))["model.neff"]
        with (folder / "model.neff").open("wb", buffering=0) as writer:
            for start in range(0, len(neff), 4_000):
                writer.write(neff[start : start + 4_000])
                await asyncio.sleep(0.05)
        assert host.taken == 0
        assert host.collector.settling == 0
        (folder / "model.done").touch()
        (folder / xla.LOCK).unlink()
        await host.until(lambda: host.collector.settling or host.taken, "the ready entry is found", WITHIN_S)
        await host.until(lambda: host.taken == 1, "the ready entry is taken", WITHIN_S)
        assert await taken_names(journal) == [entries.module(1)]
        # Until it is handed over somebody counts it among what waits.
        assert host.settling_when_taken == [1]
        await host.until(lambda: host.collector.settling == 0, "and nobody counts it twice", WITHIN_S)


async def test_an_entry_that_cannot_be_read_just_after_a_crash_is_not_sent_torn(
    root: CacheRoot, database: Database, index: Index, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(Index(database, boot="before").note_boot, root.path)
    torn, sound = map(entries.module, (1, 2))
    for name in (torn, sound):
        entries.write(root.path, name, entries.files(name))
    os.truncate(root.entry(torn) / "model.neff", 8192)
    look, looked = aftercrash._looks_torn, set[Path]()

    def fails_at_first(path: Path) -> str | None:
        if path not in looked:
            looked.add(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return look(path)

    monkeypatch.setattr(aftercrash, "_looks_torn", fails_at_first)
    async with collecting(root, index, journal) as host:
        await host.until(lambda: host.taken == 1, "the sound one is taken", WITHIN_S)
        assert await taken_names(journal) == [sound]
        assert host.metrics.value("neffd_not_pushed_total", reason="torn") == 1
    assert not root.entry(torn).exists()


async def test_more_unready_entries_than_watches(root: CacheRoot, index: Index, journal: Journal) -> None:
    numbers = range(MAX_ENTRY_WATCHES + 20)
    folders = [start_compile(root, number) for number in numbers]
    async with collecting(root, index, journal) as host:
        assert host.collector.counts["compiling"] == len(folders)
        for number in (0, MAX_ENTRY_WATCHES + 10, MAX_ENTRY_WATCHES + 19):
            finish_compile(folders[number], number)
        await host.until(lambda: host.taken == 3, "watched and unwatched entries alike", WITHIN_S)


async def test_ready_entries_hold_no_watch_and_reading_them_wakes_nobody(
    root: CacheRoot, index: Index, journal: Journal
) -> None:
    names = [entries.module(number) for number in range(20)]
    for name in names:
        entries.write(root.path, name, entries.files(name))
    async with collecting(root, index, journal) as host:
        await host.until(lambda: host.taken == 20, "all are taken")
        await host.collector.scan_now()
        assert len(_inotify_watches()) == 3, "the cache directory, its namespace, and our own signs"
        looks = _count_inspections(root)
        for name in names:
            entries.read(root.path, name)
        await asyncio.sleep(1.2)  # two rounds of looking, were there any
        assert looks == []
        assert host.metrics.value("neffd_scans_total", why="periodic") == 0


async def test_an_entry_that_is_deleted_and_made_anew_is_found_again(
    root: CacheRoot, index: Index, journal: Journal
) -> None:
    async with collecting(root, index, journal) as host:
        for round_number in range(3):
            folder = start_compile(root, 1)
            await host.until(lambda: host.collector.counts["compiling"] == 1, "the lock is seen", WITHIN_S)
            shutil.rmtree(folder)  # and at once again, so that the deletion may be seen late
            folder = start_compile(root, 1)
            inode = folder.stat().st_ino
            await host.until(lambda i=inode: i in _inotify_watches(), "the new folder is watched", WITHIN_S)  # type: ignore[misc]
            finish_compile(folder, 1)
            await host.until(lambda n=round_number: host.taken == n + 1, "found again", WITHIN_S)  # type: ignore[misc]
            shutil.rmtree(folder)


async def test_a_namespace_that_is_deleted_and_made_anew(root: CacheRoot, index: Index, journal: Journal) -> None:
    async with collecting(root, index, journal) as host:
        for number in range(3):
            finish_compile(start_compile(root, number), number)
            await host.until(lambda n=number: host.taken == n + 1, "an entry of the new namespace", WITHIN_S)  # type: ignore[misc]
            shutil.rmtree(root.path / entries.NAMESPACE)


async def test_the_whole_directory_is_deleted_and_made_anew(root: CacheRoot, index: Index, journal: Journal) -> None:
    """`neuron_parallel_compile --command clean` does so."""
    async with collecting(root, index, journal) as host:
        for number in range(2):
            finish_compile(start_compile(root, number), number)
            await host.until(lambda n=number: host.taken == n + 1, "an entry of the new directory", WITHIN_S)  # type: ignore[misc]
            shutil.rmtree(root.path)
            await host.until(lambda: len(_inotify_watches()) <= 1, "the deletion is noticed", WITHIN_S)
        assert host.scans("periodic") == 0


async def test_lost_events_lead_to_a_scan_that_finds_everything(
    root: CacheRoot, index: Index, journal: Journal
) -> None:
    async with collecting(root, index, journal) as host:
        folder = start_compile(root, 1)
        await host.until(lambda: host.collector.counts["compiling"] == 1, "the lock is seen", WITHIN_S)
        # What watchdog says when the kernel's queue is full.
        logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflowed; events were lost")
        await host.until(lambda: host.scans("overflow") == 1, "a scan", WITHIN_S)
        await host.until(lambda: "events-lost" in host.healed, "it was said, and is over", WITHIN_S)
        finish_compile(folder, 1)
        await host.until(lambda: host.taken == 1, "the watches work after it", WITHIN_S)


async def test_lost_events_are_not_forgotten_over_another_reason_to_scan(
    root: CacheRoot, index: Index, journal: Journal
) -> None:
    async with collecting(root, index, journal) as host:
        logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflowed; events were lost")
        await asyncio.sleep(0)
        host.collector.scan_soon("asked")  # before the scan begins
        await host.until(lambda: "events-lost" in host.healed, "it is over", WITHIN_S)
        assert host.scans("overflow") == 0


async def test_one_that_cannot_be_read_keeps_no_other_back(
    root: CacheRoot, index: Index, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, names = list[ModuleName](), [entries.module(number) for number in range(12)]

    def take_unless_bad(root: CacheRoot, name: ModuleName, *rest: Any, **more: Any) -> Any:
        if name in (bad or [name]):  # whichever comes first
            bad[:] = [name]
            raise OSError(errno.EIO, "Input/output error")
        return take(root, name, *rest, **more)

    monkeypatch.setattr(collect, "take", take_unless_bad)
    async with collecting(root, index, journal) as host:
        for number, name in enumerate(names):  # one by one, so that each is due at a time of its own
            entries.write(root.path, name, entries.files(name))
            await host.until(functools.partial(_has_seen, host, number + 1), "it is seen")
        await host.until(lambda: host.taken == len(names) - 1, "all but that one")
        monkeypatch.undo()
        await host.until(lambda: host.taken == len(names), "and that one, once it can be read", 30)


async def test_those_that_could_not_be_taken_are_tried_in_turns(
    root: CacheRoot, index: Index, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was full, and has room again for all but one of them."""
    names, tried = [entries.module(number) for number in range(3)], list[ModuleName]()
    has_room = False

    def take_if_there_is_room(root: CacheRoot, name: ModuleName, *rest: Any, **more: Any) -> Any:
        tried.append(name)
        if not has_room or name == tried[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return take(root, name, *rest, **more)

    monkeypatch.setattr(collect, "Backoff", _QuickBackoff)
    monkeypatch.setattr(collect, "take", take_if_there_is_room)
    for name in names:
        entries.write(root.path, name, entries.files(name))
    async with collecting(root, index, journal) as host:
        await host.until(lambda: len(set(tried)) == len(names), "all of them are tried on the full disk")
        has_room = True
        await host.until(lambda: host.taken == len(names) - 1, "all but the one")


class _QuickBackoff(Backoff):
    """Never longer than a moment."""

    def __init__(self, first_s: float, limit_s: float, clock: Any) -> None:
        super().__init__(0.01, 0.01, clock)


def _has_seen(host: Collecting, count: int) -> bool:
    return host.collector.settling + host.taken >= count


@needs_root
@pytest.mark.parametrize("mended", ["owner", "gone"])
async def test_an_untrusted_owner_is_said_until_it_is_mended(
    root: CacheRoot, index: Index, journal: Journal, mended: str
) -> None:
    async with collecting(root, index, journal) as host:
        folder = entries.write(root.path, entries.module(1), entries.files(entries.module(1)))
        os.chown(folder / "model.neff", 12345, 12345)
        await host.until(lambda: "untrusted-owner" in {reason for reason, _ in host.problems}, "it is said")
        if mended == "owner":
            os.chown(folder / "model.neff", 0, 0)
        else:
            shutil.rmtree(folder)
        await host.collector.scan_now()
        await host.until(lambda: "untrusted-owner" in host.healed, "it is over")
        await host.until(lambda: host.taken == (mended == "owner"), "and taken, if it is there")


async def test_a_question_that_is_withdrawn_during_a_scan_does_no_harm(
    root: CacheRoot, index: Index, journal: Journal
) -> None:
    async with collecting(root, index, journal) as host:
        asked = asyncio.create_task(host.collector.scan_now())  # noqa: TID251
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait({asked})
        assert asked.cancelled()
        scans = host.scans("asked")
        await host.collector.scan_now()
        assert host.scans("asked") > scans


async def test_a_settle_time_longer_than_the_time_between_scans(
    root: CacheRoot, index: Index, journal: Journal
) -> None:
    async with collecting(root, index, journal) as host:
        entries.write(root.path, entries.module(1), entries.files(entries.module(1)))
        while not host.taken:
            await host.collector.scan_now()
        assert host.scans("asked") > 1


async def test_waiting_entries_stay_in_sight_during_a_scan(
    root: CacheRoot, index: Index, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collecting(root, index, journal) as host:
        monkeypatch.setattr("neffd.publish.collect.take", _full_disk)
        entries.write(root.path, entries.module(1), entries.files(entries.module(1)))
        await host.until(lambda: host.collector.settling == 1, "it is found", WITHIN_S)
        asked = asyncio.create_task(host.collector.scan_now())  # noqa: TID251
        while not asked.done():
            assert host.collector.settling == 1, "flush would say that nothing waits"
            await asyncio.sleep(0)


def _full_disk(*args: object, **kwargs: object) -> None:
    raise OSError(28, "No space left on device", f"outbox/{os.urandom(4).hex()}")


async def test_a_full_disk_is_reported_tried_seldom_and_heals(
    root: CacheRoot, index: Index, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collecting(root, index, journal) as host:
        with monkeypatch.context() as patch:
            patch.setattr("neffd.publish.collect.take", _full_disk)
            for number in range(5):
                entries.write(root.path, entries.module(number), entries.files(entries.module(number)))
            await host.until(lambda: host.metrics.value("neffd_not_pushed_total", reason="disk") >= 2, "a second try")
            assert host.metrics.value("neffd_not_pushed_total", reason="disk") <= 3
            assert set(host.problems) == {("disk", "")}
        await host.until(lambda: host.taken == 5, "all are taken once there is room", 20)
        assert host.healed


async def test_a_journal_that_cannot_be_written_leaves_nothing_pinned(
    root: CacheRoot, database: Database, index: Index, journal: Journal
) -> None:
    async with collecting(root, index, journal) as host:
        await database.run(lambda connection: connection.execute(_FULL))
        entries.write(root.path, entries.module(1), entries.files(entries.module(1)))
        await host.until(lambda: host.problems, "the problem is said", WITHIN_S)
        assert list((root.staging / "outbox").iterdir()) == []
        await database.run(lambda connection: connection.execute("DROP TRIGGER full"))
        await host.until(lambda: host.taken == 1, "taken once the journal can be written", 20)


async def test_entries_that_existed_are_not_taken_for_new_while_the_index_cannot_be_read(
    root: CacheRoot, index: Index, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = Index.has_baseline, iter([True])

    def fail_once(self: Index, path: Path) -> bool:
        if next(failures, False):
            raise sqlite3.OperationalError("disk I/O error")
        return real(self, path)

    monkeypatch.setattr(Index, "has_baseline", fail_once)
    entries.write(root.path, entries.module(1), entries.files(entries.module(1)))
    async with collecting(root, index, journal) as host:
        await host.until(lambda: host.taken == 1, "taken after all", 20)
        known = await asyncio.to_thread(index.known, root.path, entries.module(1))
        assert known is not None
        assert known.origin == "existing"


async def test_dates_that_the_database_cannot_hold_stop_nothing(
    root: CacheRoot, index: Index, journal: Journal
) -> None:
    in_2300 = 10_413_792_000

    def write(name: ModuleName) -> None:
        neff = entries.write(root.path, name, entries.files(name)) / "model.neff"
        os.utime(neff, (in_2300, in_2300))
        if neff.stat().st_mtime != in_2300:
            pytest.skip("this file system has no such dates")

    write(entries.module(1))
    async with collecting(root, index, journal) as host:
        write(entries.module(2))
        await host.until(lambda: host.taken == 2, "both are taken")
        await host.collector.scan_now()
        assert host.taken == 2, "and recognized"
    assert not host.problems


async def test_a_look_that_fails_is_made_up_for_by_a_scan(
    root: CacheRoot, index: Index, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root.path / entries.NAMESPACE).mkdir()
    async with collecting(root, index, journal) as host:
        real = Index.known_of
        failures = iter([sqlite3.OperationalError("disk I/O error")])

        def fail_once(self: Index, path: Path, names: Collection[ModuleName]) -> dict[ModuleName, Known]:
            for failure in failures if names else ():
                raise failure
            return real(self, path, names)

        monkeypatch.setattr(Index, "known_of", fail_once)
        entries.write(root.path, entries.module(1), entries.files(entries.module(1)))
        await host.until(lambda: host.scans("retry") == 1, "what the event told of is looked for")
        await host.until(lambda: host.taken == 1, "taken after all")
        await host.until(lambda: "disk" in host.healed, "and that is said")


async def test_no_inotify_instance_left(
    root: CacheRoot, index: Index, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left() -> None:
        raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr("neffd.publish.watch.InotifyObserver", none_left)
    async with collecting(root, index, journal) as host:
        assert [reason for reason, _ in host.problems] == ["no-events"]
        entries.write(root.path, entries.module(1), entries.files(entries.module(1)))
        await host.collector.scan_now()
        await host.until(lambda: host.taken == 1, "scans find it")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_what_the_daemon_may_not_read_is_said_once_and_stops_nothing(tmp_path: Path) -> None:
    """In a process of another user: root may read everything."""
    home = tmp_path / "home"
    home.mkdir()
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o005 != 0o005 and folder.is_relative_to("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o055)
    os.chown(home, 1234, 1234)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(1234)
            os.setuid(1234)
            asyncio.run(_meet_closed_folders(home))
            code = 0
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
        finally:
            os._exit(code)
    cache = home / "cache"
    try:
        while not cache.is_dir():
            assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        made = tmp_path / "made"  # and moved in when it is closed, or it might be taken before
        closed = entries.write(made, entries.module(1), entries.files(entries.module(1)))
        closed.chmod(0o700)
        other = entries.write(made, entries.module(2, entries.OLD_NAMESPACE), {"model.hlo_module.pb": b"x"})
        other.parent.chmod(0o700)
        for number in (3, 4):
            name = entries.module(number)
            folder = entries.write(made, name, entries.files(name))
            (folder / "model.neff").chmod(0o600 if number == 3 else 0o644)
        for namespace in made.iterdir():
            namespace.rename(cache / namespace.name)
        (home / "go").touch()
    finally:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


async def _meet_closed_folders(home: Path) -> None:
    from neffd.store.database import Database

    database = Database(home / "state")
    index = Index(database)
    journal = Journal(database, index)
    async with collecting(CacheRoot(home / "cache"), index, journal) as host:
        (home / "cache").chmod(0o777)
        await host.until((home / "go").exists, "the other user")
        for _ in range(3):
            await host.collector.scan_now()
        await host.until(lambda: host.taken == 1, "the one that can be read")
        assert await taken_names(journal) == [entries.module(4)]
        assert {reason for reason, _ in host.problems} == {"cannot-read"}
        assert all("setfacl" in hint for _, hint in host.problems)
    database.close()


async def test_ended_while_it_starts_no_thread_of_watchdog_stays(
    root: CacheRoot, index: Index, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that stay would hold up the end of the daemon."""
    starting, is_cancelled = threading.Event(), threading.Event()

    class Slow(InotifyObserver):
        def start(self) -> None:
            starting.set()
            assert is_cancelled.wait(WITHIN_S)
            super().start()

    monkeypatch.setattr("neffd.publish.watch.InotifyObserver", Slow)
    workers = ThreadPoolExecutor(2)
    made = Collecting(root, index, journal, workers)
    task = asyncio.create_task(made.collector.run())  # noqa: TID251
    await until(starting.is_set, "the start")
    task.cancel()
    asyncio.get_running_loop().call_later(0.1, is_cancelled.set)  # the stop has begun by then, or it has nothing to do
    await asyncio.wait({task})
    workers.shutdown()
    assert not [thread for thread in threading.enumerate() if isinstance(thread, BaseThread)]


def _inotify_watches() -> list[int]:
    """Inodes that this process watches."""
    found = []
    for file in Path("/proc/self/fdinfo").iterdir():
        try:
            lines = file.read_text().splitlines()
        except OSError:
            continue
        found += [int(line.split("ino:")[1].split()[0], 16) for line in lines if line.startswith("inotify")]
    return found


def _count_inspections(root: CacheRoot) -> list[str]:
    looks: list[str] = []
    inspect = root.inspect

    def counting(name: object) -> object:
        looks.append(str(name))
        return inspect(name)  # type: ignore[arg-type]

    root.inspect = counting  # type: ignore[method-assign,assignment]
    return looks


@pytest.mark.timeout(180)  # 16,000 events: a busy machine takes a while for them
def test_real_overflow_is_said_by_watchdog(tmp_path: Path) -> None:
    """The kernel's own overflow, made by a child that stops reading its events."""
    limit = Path("/proc/sys/fs/inotify/max_queued_events")
    count = int(limit.read_text()) + 100
    if count > 20_000:
        pytest.skip(f"{count} events would take long")
    script = f"""
import logging, pathlib, sys, threading
from neffd.publish.watch import Watch
lost, hold = threading.Event(), threading.Lock()
hold.acquire()
from watchdog.observers.inotify_c import InotifyFD
read = InotifyFD.read_events
def slow(self):
    with hold:
        pass
    return read(self)
InotifyFD.read_events = slow
watch = Watch(lambda path, gone: None, lost.set)
watch.start()
root = pathlib.Path({str(tmp_path)!r})
assert watch.add_folder(root)
for number in range({count} // 2):
    (root / f"neuronxcc-{{number}}").mkdir()
    (root / f"neuronxcc-{{number}}").rmdir()
hold.release()
assert lost.wait(120)
watch.stop()
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
