"""Watching that cannot go quiet, with the kernel's own events: whatever happens is said, and a scan heals it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from neffd.publish import canary, lookout
from neffd.publish.journal import Journal
from neffd.publish.watch import _Handler
from neffd.store.index import Index
from neffd.store.root import CacheRoot
from tests.harness import entries
from tests.unit.publish.conftest import Collecting, collecting

WITHIN_S = 5.0
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_libc = ctypes.CDLL(None)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookout, "_LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(lookout, "_BLIND_SCAN_S", 0.1)


@pytest.fixture
def quick_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where events are to be missing: on a busy machine they may come so late that they seem to be."""
    monkeypatch.setattr(canary, "EVERY_S", 0.1)
    monkeypatch.setattr(canary, "_LOOK_EVERY_S", 0.05)


def write(folder: Path, number: int) -> None:
    entries.write(folder, entries.module(number), entries.files(entries.module(number)))


async def takes(host: Collecting, count: int) -> None:
    await host.until(lambda: host.taken == count, f"{count} entries", WITHIN_S)


async def says(host: Collecting, reason: str) -> None:
    await host.until(lambda: reason in dict(host.problems), reason, WITHIN_S)


async def is_over(host: Collecting, reason: str) -> None:
    await host.until(lambda: reason in host.healed, f"{reason} is over", WITHIN_S)


async def test_moved_away_and_made_anew(root: CacheRoot, index: Index, journal: Journal, tmp_path: Path) -> None:
    async with collecting(root, index, journal) as host:
        write(root.path, 1)
        await takes(host, 1)
        root.path.rename(tmp_path / "elsewhere")
        await says(host, "cache-dir-gone")
        root.path.mkdir()
        write(root.path, 2)
        await takes(host, 2)
        await is_over(host, "cache-dir-gone")
        scans = host.scans("periodic")
        write(root.path, 3)
        await takes(host, 3)
        assert host.scans("periodic") <= scans + 1, "events come from the new one"


async def test_another_directory_in_its_place_from_one_moment_to_the_next(
    root: CacheRoot, index: Index, journal: Journal, tmp_path: Path
) -> None:
    async with collecting(root, index, journal) as host:
        write(tmp_path / "other", 1)
        exchange(tmp_path / "other", root.path)
        await takes(host, 1)
        write(root.path, 2)
        await takes(host, 2)
        assert host.scans("periodic") == 0


def exchange(one: Path, other: Path) -> None:
    """With no moment between, in which a look would find nothing, where the file system can do that."""
    if _libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        other.rename(one.with_name("elsewhere"))
        one.rename(other)


async def test_replaced_by_a_link(root: CacheRoot, index: Index, journal: Journal, tmp_path: Path) -> None:
    async with collecting(root, index, journal) as host:
        root.path.rename(tmp_path / "elsewhere")
        root.path.symlink_to(tmp_path / "elsewhere")
        await says(host, "cache-dir-replaced")
        write(tmp_path / "elsewhere", 1)
        await takes(host, 1)
        root.path.unlink()
        (tmp_path / "elsewhere").rename(root.path)
        await is_over(host, "cache-dir-replaced")
        await host.until(lambda: host.collector.counts["ready"] == 1, "what was made meanwhile is there", WITHIN_S)


def call(*command: str | Path) -> None:
    subprocess.run(list(map(str, command)), check=True)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A folder, and a tmpfs that is mounted on it."""
    place, source = tmp_path / "mounted", tmp_path / "source"
    for folder in (place, source):
        folder.mkdir()
    call("mount", "-t", "tmpfs", "-o", "size=8m", "none", source)
    call("mount", "--bind", source, place)
    yield source, place
    for folder in (place, source):
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
async def test_unmounted_and_mounted_again(mounted: tuple[Path, Path], index: Index, journal: Journal) -> None:
    source, place = mounted
    root = CacheRoot(place)
    async with collecting(root, index, journal) as host:
        write(place, 1)
        await takes(host, 1)
        await asyncio.to_thread(call, "umount", "-l", place)
        await says(host, "cache-dir-replaced")
        await host.until(lambda: host.collector.counts["ready"] == 0, "its entries are gone", WITHIN_S)
        await asyncio.to_thread(call, "mount", "--bind", source, place)
        await is_over(host, "cache-dir-replaced")
        await host.until(lambda: host.collector.counts["ready"] == 1, "its entries are there again", WITHIN_S)
        scans = host.scans("periodic")
        write(place, 2)
        await takes(host, 2)
        assert host.scans("periodic") <= scans + 1, "events come again"


@pytest.mark.usefixtures("quick_canary")
async def test_events_that_do_not_arrive(
    root: CacheRoot, index: Index, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collecting(root, index, journal) as host:
        with monkeypatch.context() as patch:
            patch.setattr(_Handler, "on_any_event", lambda self, event: None)
            await says(host, "events-missing")
            assert host.scans("events-missing")
            write(root.path, 1)
            await takes(host, 1)
        await is_over(host, "events-missing")


@pytest.mark.usefixtures("quick_canary")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_watcher_that_has_died_is_started_again(
    root: CacheRoot, index: Index, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: object, event: object) -> None:
        monkeypatch.undo()
        for name, value in {"_LOOK_EVERY_S": 0.1, "_BLIND_SCAN_S": 0.1}.items():
            monkeypatch.setattr(lookout, name, value)
        raise RuntimeError("a fault in the watcher's thread")

    async with collecting(root, index, journal) as host:
        monkeypatch.setattr(_Handler, "on_any_event", die)
        await says(host, "events-missing")
        await is_over(host, "events-missing")
        await host.collector.scan_now()
        scans = host.scans("periodic")
        write(root.path, 1)
        await takes(host, 1)
        assert host.scans("periodic") <= scans + 1


@pytest.mark.usefixtures("quick_canary")
async def test_a_network_file_system_is_scanned_often(
    root: CacheRoot, index: Index, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "network_file_system", lambda path: "nfs4")
    monkeypatch.setattr(_Handler, "on_any_event", lambda self, event: None)
    async with collecting(root, index, journal) as host:
        await says(host, "no-events")
        write(root.path, 1)
        await takes(host, 1)  # which the scan for the missing events may have found
        await host.until(lambda: host.scans("periodic"), "it is scanned without another reason", WITHIN_S)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs a user namespace")
@pytest.mark.parametrize("limit", ["max_inotify_watches", "max_inotify_instances"])
def test_the_kernel_gives_no_watch_until_its_limit_is_raised(tmp_path: Path, limit: str) -> None:
    done = subprocess.run(
        ["unshare", "-Ur", sys.executable, "-m", "tests.unit.publish.starved", limit, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
