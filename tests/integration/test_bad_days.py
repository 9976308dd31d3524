"""Remotes that are away, read-only or damaged, full disks, signals at bad moments: real daemons, real processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neff.keys import ModuleName
from neff.patience import CONNECT_S
from tests.harness import entries
from tests.harness.daemon import Daemon, RawClient
from tests.harness.waiting import eventually
from tests.integration.conftest import MakeDaemon

NAME = entries.module(1)
_PAUSING = ("-m", "tests.integration.pausing_daemon")


def fetch(host: Daemon, name: ModuleName = NAME) -> dict[str, Any]:
    """The final answer for one key."""
    return [answer for answer in host.ask("prefetch", names=[str(name)], wait=True) if "state" in answer][-1]


def remote_status(host: Daemon) -> dict[str, Any]:
    status: dict[str, Any] = host.status()["remotes"][0]
    return status


def no_traceback(host: Daemon) -> bool:
    return "Traceback" not in host.log and "crashed" not in host.log


def test_remote_away_at_start_and_there_later(make_daemon: MakeDaemon, shared: Path) -> None:
    shared.rmdir()
    began = time.monotonic()
    with make_daemon("a") as host:
        assert time.monotonic() - began < 10, "an absent remote does not delay the start"
        entries.write(host.cache, NAME, entries.files(NAME))
        hello = {"root": str(host.cache)}
        with contextlib.closing(RawClient(host.socket, hello)) as client:
            asked = {"namespace": NAME.namespace, "keys": [NAME.key, entries.module(2).key]}
            local, absent, _ = client.ask("resolve", **asked)
        assert (local["state"], local["source"]) == ("ready", "local")
        assert (absent["state"], absent["reason"]) == ("absent", "remote-unavailable")
        eventually(lambda: remote_status(host)["journal"]["waiting"] == 1, "the entry waits")
        status = remote_status(host)
        assert (status["available"], status["reason"]) == (False, "no-directory")
        shared.mkdir()
        host.wait_until_pushed(1)
        eventually(lambda: remote_status(host)["available"] and remote_status(host)["reason"] is None, "all is well")
        other = entries.module(2)
        entries.write(shared, other, entries.files(other))
        eventually(lambda: fetch(host, other)["state"] == "ready", "what others shared meanwhile")
        assert no_traceback(host)
    assert entries.shared(entries.read(shared, NAME)) == entries.files(NAME)


def test_remote_goes_away_and_comes_back(make_daemon: MakeDaemon, shared: Path) -> None:
    with make_daemon("a") as host:
        entries.write(host.cache, NAME, entries.files(NAME))
        host.wait_until_pushed(1)
        away = shared.with_name("away")
        shared.rename(away)
        second = entries.module(2)
        entries.write(host.cache, second, entries.files(second))
        eventually(lambda: remote_status(host)["reason"] == "no-directory", "the trouble is visible")
        assert fetch(host)["state"] == "ready", "local facts are served"
        unknown = entries.module(3)  # at first answered from what the catalog saw a moment before
        eventually(lambda: fetch(host, unknown)["reason"] == "remote-unavailable", "nobody can say")
        away.rename(shared)
        host.wait_until_pushed(2)
        assert host.counter("neffd_remote_failures", "remote=shared,reason=no-directory") <= 15
        assert host.log.count("WARNING") <= 4, "said once, not with every attempt"
        assert no_traceback(host)


def test_a_remote_to_read_from_gets_nothing(make_daemon: MakeDaemon, shared: Path) -> None:
    with make_daemon("a", mode="read") as host:
        other = entries.module(2)
        entries.write(shared, other, entries.files(other))  # before anything has the daemon look there
        entries.write(host.cache, NAME, entries.files(NAME))
        assert host.ask("flush", timeout_s=10)[-1] == {"id": 1, "pending": 0, "parked": [], "done": True}
        assert fetch(host, other)["state"] == "ready"
        assert remote_status(host)["can_write"] is False
    assert [path.name for path in (shared / NAME.namespace).iterdir()] == [other.key]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_no_write_access_is_a_reason_and_no_loop(make_daemon: MakeDaemon, shared: Path) -> None:
    with _mounted(shared, "ro") as mounted:
        if not mounted:
            pytest.skip("no mounts here")
        with make_daemon("a") as host:
            reason = eventually(lambda: remote_status(host)["reason"], "said before it is needed")
            assert reason in ("read-only-file-system", "no-write-access")
            for number in range(3):
                name = entries.module(number)
                entries.write(host.cache, name, entries.files(name))
            eventually(lambda: remote_status(host)["journal"]["waiting"] == 3, "they wait")
            assert host.ask("flush", timeout_s=1)[-1]["pending"] == 3
            assert host.counter("neffd_remote_failures", f"remote=shared,reason={reason}") == 1
            assert remote_status(host)["can_write"] is False


@pytest.mark.parametrize("damage", ["torn", "altered", "empty"])
def test_a_damaged_entry_is_refused_counted_and_never_seen(make_daemon: MakeDaemon, shared: Path, damage: str) -> None:
    with make_daemon("a") as host_a, make_daemon("b") as host_b:
        entries.write(host_a.cache, NAME, entries.files(NAME))
        host_a.wait_until_pushed(1)
        neff = shared / NAME.namespace / NAME.key / "model.neff"
        content = neff.read_bytes()
        neff.write_bytes({"torn": content[:-100], "altered": content[:-1] + b"?", "empty": b""}[damage])
        answer = fetch(host_b)
        assert answer["state"] == "absent"
        if damage == "empty":
            assert answer["reason"] in ("refused", "not-on-remotes")
            return
        assert answer["reason"] == "refused"
        refused = host_b.status()["counters"]["neffd_refused"]
        assert sum(refused.values()) == 1
        assert fetch(host_b)["reason"] == "refused"
        assert host_b.status()["counters"]["neffd_refused"] == refused, "not fetched again at once"
        assert not (host_b.cache / NAME.namespace / NAME.key).exists()
        assert no_traceback(host_b)


@pytest.mark.parametrize("goes_on", [True, False])
def test_sigterm_in_the_middle_of_a_fetch(make_daemon: MakeDaemon, shared: Path, goes_on: bool) -> None:
    """Finished if it goes on, else rolled back; within 10 s, nothing torn."""
    entries.write(shared, NAME, entries.files(NAME))
    host = make_daemon("a")
    pause = _start_pausing(host)
    with contextlib.closing(RawClient(host.socket)) as client:
        client.send({"id": 1, "op": "prefetch", "names": [str(NAME)], "wait": True})
        _check_ends_in_the_middle(host, pause, goes_on)
    assert entries.read(host.cache, NAME) == (entries.files(NAME) if goes_on else {})
    assert no_traceback(host)
    host.start_as(("-m", "neffd"))
    assert fetch(host)["state"] == "ready"
    assert entries.read(host.cache, NAME) == entries.files(NAME)


@pytest.mark.parametrize("goes_on", [True, False])
def test_sigterm_in_the_middle_of_a_publish(make_daemon: MakeDaemon, shared: Path, goes_on: bool) -> None:
    """Finished if it goes on, else left to the journal; within 10 s, nothing torn."""
    host = make_daemon("a")
    pause = _start_pausing(host)
    entries.write(host.cache, NAME, entries.files(NAME))
    _check_ends_in_the_middle(host, pause, goes_on)
    assert entries.shared(entries.read(shared, NAME)) == (entries.files(NAME) if goes_on else {})
    assert no_traceback(host)
    host.start_as(("-m", "neffd"))
    assert host.ask("flush", timeout_s=20)[-1] == {"id": 1, "pending": 0, "parked": [], "done": True}
    assert entries.shared(entries.read(shared, NAME)) == entries.files(NAME)


def _check_ends_in_the_middle(host: Daemon, pause: Path, goes_on: bool) -> None:
    eventually(pause.exists, "it is in the middle")
    host.signal(signal.SIGTERM)
    eventually(lambda: not host.socket.exists(), "no more questions are taken")
    if goes_on:
        pause.unlink()
    assert host.wait(10) == 0, host.log


def test_a_client_that_disappears_leaves_the_fetch_going_on(make_daemon: MakeDaemon, shared: Path) -> None:
    entries.write(shared, NAME, entries.files(NAME))
    host = make_daemon("a")
    pause = _start_pausing(host)
    with contextlib.closing(RawClient(host.socket)) as client:
        client.send({"id": 1, "op": "prefetch", "names": [str(NAME)], "wait": True})
        eventually(pause.exists, "the fetch is in the middle")
    eventually(lambda: host.counter("neffd_connections") == 1, "the end of the client is seen")
    pause.unlink()
    eventually(lambda: entries.read(host.cache, NAME) == entries.files(NAME), "the fetch")
    assert host.stop() == 0
    assert no_traceback(host)


def test_a_second_daemon_on_the_same_state_directory(make_daemon: MakeDaemon) -> None:
    with make_daemon("a") as host:
        other = make_daemon("b", overrides={"state_dir": str(host.home / "state")})
        assert other.start_and_die() == 1
        assert "another neffd uses the state directory" in other.log
        assert "hint:" in other.log
        assert no_traceback(other)
        assert host.status()["state"] == "running"


def test_a_daemon_that_is_stopped_costs_a_trainer_bounded_waits(make_daemon: MakeDaemon) -> None:
    """Counted, not timed: each wait that the client makes, and the most that it would have taken."""
    from neff.asking import Asker
    from neff.waits import Waits

    class Counted(Waits):
        def __init__(self) -> None:
            self.waited: list[float] = []
            self.passed_s = 0.0

        def now_s(self) -> float:
            return self.passed_s

        def wait_ready(self, sock: Any, timeout_s: float, *, to_write: bool = False) -> bool:
            self.waited.append(timeout_s)
            if super().wait_ready(sock, 0.0, to_write=to_write):
                return True
            self.passed_s += timeout_s
            return False

    with make_daemon("a") as host:
        host.signal(signal.SIGSTOP)
        try:
            waits = Counted()
            asker = Asker(str(host.socket), waits=waits)
            for number in range(100):
                assert not asker.is_ready(str(host.cache), entries.module(number), holding=False)
            asker.close()
        finally:
            host.signal(signal.SIGCONT)
        assert waits.passed_s <= CONNECT_S
        assert len(waits.waited) <= 5, "one attempt for a hundred questions"
        assert host.status()["state"] == "running"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
@pytest.mark.parametrize("full", ["state", "cache", "cache but for the reserve"])
def test_a_full_disk_is_a_reported_problem_and_heals(
    make_daemon: MakeDaemon, shared: Path, full: str, tmp_path: Path
) -> None:
    host = make_daemon("a")
    disk = tmp_path / "disk"
    disk.mkdir()
    with _mounted(disk, "size=2m") as mounted:
        if not mounted:
            pytest.skip("no mounts here")
        if full == "state":
            host.config["state_dir"] = str(disk / "state")
        else:
            host.config["store"] = {"min_free_bytes": 0 if full == "cache" else None}
            host.cache = disk / "cache"
            host.config["cache_dirs"] = [str(host.cache)]
        with host:
            other = entries.module(2)
            entries.write(shared, other, entries.files(other, seed=2))
            filler = disk / "filler"
            if full != "state":
                _fill(filler)
                assert fetch(host, other)["reason"] == ("disk" if full == "cache" else "disk-nearly-full")
                assert not (host.cache / other.namespace / other.key).exists()
                assert full != "cache" or _reasons(host) == {"disk"}
                filler.unlink()
                eventually(lambda: not _reasons(host), "it is over before anything else is fetched")
            else:
                _fill(filler)
                for number in range(10, 40):
                    name = entries.module(number)
                    entries.write(host.cache, name, entries.files(name, seed=number))
                eventually(lambda: _reasons(host) == {"disk"}, "the problem is reported", 30)
                assert host.status()["state"] == "running"
                filler.unlink()
                eventually(lambda: len(list(shared.glob("*/*/model.done"))) == 31, "everything arrives", 40)
            entries.write(host.cache, NAME, entries.files(NAME))
            eventually(lambda: (shared / NAME.namespace / NAME.key).exists(), "and so does what comes later", 30)
            eventually(lambda: fetch(host, other)["state"] == "ready", "and what others have", 30)
            assert no_traceback(host)
            assert host.log.count("WARNING") < 15, host.log
            assert host.stop() == 0


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
@pytest.mark.parametrize("was_used", [True, False])
def test_a_cache_directory_that_is_read_only_at_the_start(
    make_daemon: MakeDaemon, shared: Path, tmp_path: Path, was_used: bool
) -> None:
    """What is there can be used and asked about; the rest goes on when the file system may be written again."""
    host = make_daemon("a")
    disk, other = tmp_path / "disk", entries.module(2)
    disk.mkdir()
    with _mounted(disk, "size=8m") as mounted:
        if not mounted:
            pytest.skip("no mounts here")
        host.cache = disk / "cache"
        host.config["cache_dirs"] = [str(host.cache)]
        if was_used:
            host.start()
            assert host.stop() == 0
        entries.write(host.cache, NAME, entries.files(NAME))
        entries.write(shared, other, entries.files(other, seed=2))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with host:
            assert fetch(host)["state"] == "ready"
            assert fetch(host, other)["reason"] == "disk"
            eventually(lambda: _reasons(host) >= {"disk"}, "it says what is wrong")
            hints = " ".join(problem["hint"] for problem in host.status()["cache_dirs"][0]["problems"])
            assert "mount it writable" in hints
            assert "setfacl" not in hints
            assert host.ask("why", name=str(NAME))[-1]["done"]
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
            eventually(lambda: fetch(host, other)["state"] == "ready", "what others have comes", 30)
            host.wait_until_pushed(1)
            eventually(lambda: not _reasons(host), "nothing is wrong any more")
            assert no_traceback(host)
            assert host.stop() == 0


@pytest.fixture
def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("named", ["https://hub.example/org/cache", "cache"])
def test_an_environment_that_misnames_its_repo_is_told_so(
    make_daemon: MakeDaemon, named: str, free_address: str
) -> None:
    environ = {"CUSTOM_CACHE_REPO": named, "HF_ENDPOINT": "http://127.0.0.1:9"}
    host = make_daemon("a", environ=environ, overrides={"http": free_address})
    del host.config["remotes"]
    with host:
        assert [remote["name"] for remote in host.status()["remotes"]] == ["public"]
        [problem] = host.status()["problems"]
        assert problem["reason"] == "repo-misnamed"
        assert problem["detail"] == "CUSTOM_CACHE_REPO does not hold the name of a repo: that one is no remote"
        assert host.http("/healthz") == (200, '{"ok": true}')
        assert "hub.example" not in host.log, "a URL can hold a token"


def test_a_taken_address_costs_the_pages_and_nothing_else(make_daemon: MakeDaemon, shared: Path) -> None:
    other = entries.module(2)
    entries.write(shared, other, entries.files(other))
    taker = socket.create_server(("127.0.0.1", 0))
    with make_daemon("a", overrides={"http": f"127.0.0.1:{taker.getsockname()[1]}"}) as host:
        with taker:
            assert [problem["reason"] for problem in host.status()["problems"]] == ["http-in-use"]
            assert fetch(host, other)["state"] == "ready"
        eventually(lambda: host.status()["problems"] == [], "the address is free")
        assert host.http("/healthz") == (200, '{"ok": true}')
        assert host.log.count("WARNING") == 1


def test_pages_tell_what_happened(make_daemon: MakeDaemon, shared: Path, free_address: str) -> None:
    other = entries.module(2)
    entries.write(shared, other, entries.files(other))
    with make_daemon("a", overrides={"http": free_address}) as host:
        entries.write(host.cache, NAME, entries.files(NAME))
        host.wait_until_pushed(1)
        assert fetch(host, other)["state"] == "ready"
        assert fetch(host, entries.module(3))["reason"] == "not-on-remotes"
        pending = entries.write(host.cache, entries.module(4), {"model.hlo_module.pb": b"x"})
        eventually(lambda: host.status()["cache_dirs"][0]["entries"]["pending"] == 1, "the pending entry")
        code, body = host.http("/status")
        status = json.loads(body)
        assert code == 200
        assert status["schema"] == 1
        assert status["pid"] == host.pid
        assert status["cache_dirs"][0]["entries"] == {"ready": 2, "compiling": 0, "pending": 1, "failed": 0}
        assert status["cache_dirs"][0]["problems"] == []
        assert status["counters"]["neffd_published_entries"] == {"remote=shared": 1}
        assert status["counters"]["neffd_fetched_entries"] == {"remote=shared": 1}
        size = sum(len(data) for data in entries.files(other).values())
        assert status["counters"]["neffd_fetched_bytes"] == {"remote=shared": size}
        assert status["remotes"][0]["journal"] == {
            "waiting": 0,
            "oldest_s": None,
            "parked_count": 0,
            "parked": [],
        }
        metrics = host.http("/metrics")[1].splitlines()
        assert 'neffd_published_entries_total{remote="shared"} 1.0' in metrics
        assert f'neffd_fetched_bytes_total{{remote="shared"}} {float(size)}' in metrics
        assert 'neffd_questions_total{reason="not-on-remotes",state="absent"} 1.0' in metrics
        assert host.http("/healthz") == (200, '{"ok": true}')
        shutil.rmtree(pending)
        eventually(lambda: host.status()["cache_dirs"][0]["entries"]["pending"] == 0, "its end")


def _reasons(host: Daemon) -> set[str]:
    status = host.status()
    found = {problem["reason"] for problem in status["cache_dirs"][0]["problems"]}
    return found | {remote["reason"] for remote in status["remotes"] if remote["reason"]}


def _start_pausing(host: Daemon) -> Path:
    pause = host.home / "pause"
    host.start_as(_PAUSING, PAUSE_FILE=str(pause))
    return pause


def _fill(file: Path) -> None:
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as writer:
        while writer.write(b"x" * 4096):
            pass


@contextlib.contextmanager
def _mounted(folder: Path, options: str) -> Iterator[bool]:
    """A small file system of its own in memory at `folder`; false where that is not possible."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True)
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=True)
