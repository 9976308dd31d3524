"""The wall clock of a running daemon jumps by hours and years, forth and back: entries go both ways as ever."""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from neff.keys import ModuleName
from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.harness.waiting import eventually

_LIBRARIES = sorted(Path("/usr/lib").glob("**/libfaketimeMT.so.1"))
_JUMPS = ("+1h", "-1h", "+1y", "-1y", "+0", "-10y")

pytestmark = [
    pytest.mark.skipif(not _LIBRARIES, reason="needs libfaketime: apt-get install faketime"),
    pytest.mark.timeout(180),
]


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """The file that says how far the daemon's wall clock is off."""
    file = tmp_path / "clock"
    file.write_text("+0\n")
    return file


@pytest.fixture
def host(tmp_path: Path, shared: Path, clock: Path) -> Iterator[Daemon]:
    remotes = [{"name": "shared", "url": f"file://{shared}", "mode": "read-write", "poll_s": 0.5}]
    environ = {
        "LD_PRELOAD": str(_LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",  # seconds; without, every look at the clock reads the file
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # the kernel's does not jump either
        "NO_FAKE_STAT": "1",
    }
    daemon = Daemon(tmp_path / "host", remotes, {"scan_s": 0.5}, environ)
    yield daemon
    daemon.kill()


def _jump(clock: Path, to: str) -> None:
    draft = clock.with_suffix(".new")
    draft.write_text(to + "\n")
    draft.rename(clock)


def _is_fetched(host: Daemon, name: ModuleName) -> bool:
    answers = host.ask("prefetch", names=[str(name)], wait=True)
    states = [str(answer["state"]) for answer in answers if "state" in answer]
    return states[-1] == "ready"


def test_entries_go_out_and_come_in(host: Daemon, shared: Path, clock: Path) -> None:
    numbers = itertools.count()
    with host:
        for jump in _JUMPS:
            ours, theirs = entries.module(next(numbers)), entries.module(next(numbers))
            entries.write(host.cache, ours, entries.files(ours))
            _jump(clock, jump)
            entries.write(shared, theirs, entries.files(theirs))
            eventually(functools.partial(_is_fetched, host, theirs), f"fetched after {jump}", 40)
            assert entries.read(host.cache, theirs) == entries.files(theirs)
            eventually((shared / str(ours) / "model.done").exists, f"sent after {jump}", 40)
            assert entries.shared(entries.read(shared, ours)) == entries.files(ours)
        assert host.ask("flush", timeout_s=10)[-1] == {"id": 1, "pending": 0, "parked": [], "done": True}
        assert host.status()["state"] == "running"
        assert "Traceback" not in host.log
        _jump(clock, "+2y")
        host.kill()
        host.start()  # a life that the last one's clock has never heard of
        assert host.ask("flush", timeout_s=10)[-1]["pending"] == 0
        assert all(entries.read(host.cache, entries.module(number)) for number in range(next(numbers)))


@pytest.mark.parametrize("jump", ["+5y", "-5y"])
def test_eviction_goes_on(host: Daemon, clock: Path, jump: str) -> None:
    """Last uses that lie in the future, or all in the far past."""
    size = sum(len(data) for data in entries.files(entries.module(0)).values())
    host.config["store"] = {"max_bytes": 3 * size + 100, "high_water": 100, "low_water": 100, "keep_used_s": 30}
    with host:
        for number in range(5):
            name = entries.module(number)
            neff = entries.write(host.cache, name, entries.files(name, seed=number)) / "model.neff"
            os.utime(neff, (time.time() - 86_400,) * 2)
        _jump(clock, jump)
        eventually(lambda: len(list(host.cache.glob("*/*/model.done"))) == 3, "two go", 40)
        for number in range(5):
            name = entries.module(number)
            _is_fetched(host, name)
            assert entries.read(host.cache, name) in (entries.files(name, seed=number), {})
        assert "Traceback" not in host.log
