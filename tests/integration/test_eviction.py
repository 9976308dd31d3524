"""A cache directory with a limit, in a real daemon: what goes, what stays, and how it comes back."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from neff.keys import ModuleName
from tests.harness import entries
from tests.harness.daemon import Daemon, RawClient
from tests.harness.waiting import eventually
from tests.integration.conftest import MakeDaemon

_SIZE = sum(len(data) for data in entries.files(entries.module(0)).values())
# A looks-at-everything often, nothing protected for having just been made.
_QUICK = {"scan_s": 0.5}


def limited(entries_: int, **store: Any) -> dict[str, Any]:
    """Room for that many entries, to the last one."""
    return {
        **_QUICK,
        "store": {"max_bytes": _SIZE * entries_ + 100, "high_water": 100, "low_water": 100, "keep_used_s": 0.1} | store,
    }


def space(host: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = host.status()["cache_dirs"][0]["space"]
    return found


def ready(host: Daemon) -> set[int]:
    return {number for number in range(20) if (host.cache / str(entries.module(number)) / "model.done").exists()}


def write(host: Daemon, number: int, idle_s: float = 86_400) -> ModuleName:
    """An entry that was made, and last read, `idle_s` ago."""
    name = entries.module(number)
    neff = entries.write(host.cache, name, entries.files(name, seed=number)) / "model.neff"
    os.utime(neff, (time.time() - idle_s, time.time() - idle_s))
    return name


def fetch(host: Daemon, name: ModuleName) -> dict[str, Any]:
    return [answer for answer in host.ask("prefetch", names=[str(name)], wait=True) if "state" in answer][-1]


def tell(reader: subprocess.Popen[str], *what: object) -> None:
    """Not by its arguments: in every cache directory of this machine a module that a process names there is at work."""
    assert reader.stdin is not None
    print(*what, sep="|", file=reader.stdin, flush=True)


def test_shared_entries_go_and_come_back_when_they_are_asked_for(make_daemon: MakeDaemon, shared: Path) -> None:
    with make_daemon("a", overrides=limited(3)) as host:
        for number in range(5):
            write(host, number)
        host.wait_until_pushed(5)
        eventually(lambda: space(host)["evicted_entries"] == 2, "two go, once they are on the remote")
        assert len(ready(host)) == 3
        assert space(host)["bytes"] == 3 * _SIZE
        eventually(lambda: space(host)["reason"] is None, "and all is well again, once it has looked")
        assert host.counter("neffd_evicted_entries") == 2
        assert host.counter("neffd_evicted_bytes") == 2 * _SIZE
        (one, *_) = set(range(5)) - ready(host)
        assert not (host.cache / str(entries.module(one))).exists()
        assert fetch(host, entries.module(one))["source"] == "shared"
        assert entries.read(host.cache, entries.module(one)) == entries.files(entries.module(one), seed=one)
        eventually(lambda: space(host)["evicted_entries"] == 3, "another one goes for it")
        assert host.ask("flush", timeout_s=10)[-1]["pending"] == 0
        assert host.counter("neffd_published_entries", "remote=shared") == 5, "nothing is sent twice"
        assert host.counter("neffd_already_there", "remote=shared") == 0
    assert len(list(shared.glob("*/*/model.done"))) == 5


def test_what_no_remote_holds_stays_and_it_is_said(make_daemon: MakeDaemon) -> None:
    with make_daemon("a", remotes=[], overrides=limited(2)) as host:
        for number in range(4):
            write(host, number)
        eventually(lambda: space(host)["kept"] == {"not-shared": 4}, "counted")
        assert space(host)["reason"] == "over-limit"
        (problem,) = host.status()["cache_dirs"][0]["problems"]
        assert problem["reason"] == "over-limit"
        assert "nothing more can be evicted: " in problem["detail"]
        assert ready(host) == {0, 1, 2, 3}
        assert host.stop() == 0
        host.config["store"]["evict_unshared"] = True
        host.start()
        eventually(lambda: len(ready(host)) == 2, "allowed to go")
        eventually(lambda: host.status()["cache_dirs"][0]["problems"] == [], "and all is well")


def test_what_waits_for_a_remote_that_is_away_stays(make_daemon: MakeDaemon, shared: Path) -> None:
    shared.rmdir()
    with make_daemon("a", overrides=limited(1)) as host:
        for number in range(3):
            write(host, number)
        eventually(lambda: space(host)["kept"] == {"waiting-for-upload": 3}, "all of them")
        shared.mkdir()
        eventually(lambda: len(ready(host)) == 1, "once they are there", 40)
    assert len(list(shared.glob("*/*/model.done"))) == 3


def test_the_last_read_counts(make_daemon: MakeDaemon) -> None:
    """By a process that never asks: a local hit."""
    with make_daemon("a", overrides=limited(10)) as host:
        names = [write(host, number, idle_s=86_400 * 3) for number in range(3)]
        host.wait_until_pushed(3)
        neff = host.cache / str(names[1]) / "model.neff"
        script = "import pathlib; pathlib.Path(input()).read_bytes()"
        before = neff.stat().st_atime
        subprocess.run([sys.executable, "-c", script], input=str(neff), text=True, check=True)
        if neff.stat().st_atime == before:
            pytest.skip("mounted noatime")
        assert host.stop() == 0
        host.config |= limited(1, keep_used_s=3600)
        host.start()
        eventually(lambda: ready(host) == {1}, "the others go")


def test_what_a_process_has_open_stays(make_daemon: MakeDaemon) -> None:
    with make_daemon("a", overrides=limited(10)) as host:
        names = [write(host, number) for number in range(3)]
        host.wait_until_pushed(3)
        script = "import sys; f = open(input()); print('open', flush=True); sys.stdin.read()"
        command = [sys.executable, "-c", script]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
            tell(reader, host.cache / str(names[0]) / "model.neff")
            assert reader.stdout is not None
            assert reader.stdout.readline() == "open\n"
            assert host.stop() == 0
            host.config["store"]["max_bytes"] = 100
            host.start()
            eventually(lambda: space(host)["kept"] == {"in-use": 1}, "it stays")
            assert ready(host) == {0}
            reader.communicate()
        eventually(lambda: ready(host) == set(), "and goes afterwards", 60)


@pytest.mark.timeout(150)
def test_trainers_hit_all_the_time_while_everything_is_evicted(make_daemon: MakeDaemon, shared: Path) -> None:
    """A reader that saw the mark finds the whole NEFF, however often the entry goes and comes."""
    with make_daemon("a", overrides=limited(1) | {"store": {"max_entries": 1, "keep_used_s": 0.01}}) as host:
        names = [entries.module(number) for number in range(3)]
        for number, name in enumerate(names):
            entries.write(shared, name, entries.files(name, seed=number))
        script = """
import pathlib, time
root, enough, *folders = map(pathlib.Path, input().split("|"))
whole = {folder: set() for folder in folders}
print("reads", flush=True)
while not enough.exists():
    for folder in whole:
        if (root / folder / "model.done").exists():
            whole[folder].add((root / folder / "model.neff").read_bytes())
    time.sleep(0.002)  # or some are in use whenever the daemon looks, and stay
print(*(len(seen) for seen in whole.values()))
"""
        enough = host.home / "enough"
        command = [sys.executable, "-c", script]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
            tell(reader, host.cache, enough, *names)
            assert reader.stdout is not None
            assert reader.stdout.readline() == "reads\n"
            try:
                for until_gone in (False, True) * 2:  # wanted again before, and after, all of it is gone
                    for name in names:
                        assert fetch(host, name)["state"] == "ready"
                    if until_gone:
                        eventually(lambda: not list(host.cache.glob("*/MODULE_*")), "all of it is gone", 50)
                    else:
                        time.sleep(0.3)
            finally:
                enough.touch()
            assert reader.stdout.read() == "1 1 1\n", "each NEFF was seen, and always the same"
            assert reader.wait(20) == 0
        gone = eventually(
            lambda: (number := space(host)["evicted_entries"]) >= 2 * len(names) and number, "all went twice"
        )
        assert host.counter("neffd_fetched_entries", "remote=shared") >= gone


def test_what_is_gone_leaves_nothing(make_daemon: MakeDaemon, shared: Path) -> None:
    names = [entries.module(number) for number in range(12)]
    for name in names:
        entries.write(shared, name, entries.files(name))
    with make_daemon("a", overrides=limited(4)) as host:
        with contextlib.closing(RawClient(host.socket, {"root": str(host.cache)})) as trainer:
            trainer.ask("resolve", namespace=entries.NAMESPACE, keys=[name.key for name in names])
        eventually(lambda: space(host)["evicted_entries"] >= 8, "back in its limits")
        with contextlib.closing(sqlite3.connect(host.home / "state" / "neffd.db")) as database:
            known = "SELECT count(*) FROM entries"
            assert eventually(lambda: (count := database.execute(known).fetchone()[0]) <= 4 and count, "forgotten")
