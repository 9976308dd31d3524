"""Reports of local hits: what comes to the daemon, when, and that no hit ever waits."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neff.hook import Hook
from neff.keys import ModuleName
from neff.notices import Notices
from neff.protocol import Message
from neff.used import UsedReports
from neff.waits import Waits
from tests.harness.waiting import eventually
from tests.neuron.env import standin_env
from tests.unit.client.hooked import KEY, MODERN, Answers
from tests.unit.client.scripted import Peer, ScriptedDaemon, serving

ROOT = "/cache"
USED = ["resolve", "used"]


class _Clock(Waits):
    """Time that stands still unless it is moved; waiting is an error, and noted, since hooks swallow errors."""

    def __init__(self) -> None:
        self.clock_s = 1000.0
        self.waits = 0

    def now_s(self) -> float:
        return self.clock_s

    def wait_ready(self, sock: socket.socket | None, timeout_s: float, *, to_write: bool = False) -> bool:
        self.waits += 1
        raise AssertionError("a report was waited for")


def _name(number: int = 1) -> ModuleName:
    return ModuleName(MODERN, f"MODULE_{number}+e30acd3a")


def _reports(seen: list[Message]) -> list[list[Any]]:
    return [module for message in seen if message.get("op") == "used" for module in message["modules"]]


def _greeted(reports: UsedReports) -> Callable[[], bool]:
    """Whether the daemon's greeting has come."""

    def look() -> bool:
        (line,) = reports._lines.values()
        return line.heard() is not None

    return look


def _connected(path: str | Path, clock: _Clock, then: Callable[[], None] = lambda: None) -> UsedReports:
    reports = UsedReports(lambda: str(path), clock)
    reports.found(ROOT, _name(0))
    then()
    eventually(_greeted(reports), "the greeting")
    clock.clock_s += 1
    return reports


def test_each_module_is_told_once_with_its_age(socket_path: Path) -> None:
    seen: list[Message] = []
    clock, may_greet = _Clock(), threading.Event()

    def greets_late(peer: Peer) -> None:
        may_greet.wait(20)
        serving(seen, {}, capabilities=USED)(peer)

    with ScriptedDaemon(socket_path, greets_late) as daemon:
        # Who greets while the first module is found is told of it at once.
        reports = _connected(daemon.path, clock, may_greet.set)
        for number in (1, 2, 1, 2):
            reports.found(ROOT, _name(number))
            clock.clock_s += 0.1
        reports.known(ROOT, _name(3))
        reports.found(ROOT, _name(3))
        clock.clock_s += 1
        reports.found(ROOT, _name(4))
        reports.finish()
    assert [[key, ago_s] for _, key, ago_s in _reports(seen)] == [
        [_name(0).key, 1.0],
        [_name(1).key, 0.0],
        [_name(2).key, 1.3],
        [_name(4).key, 0.0],
    ]
    assert [len(message["modules"]) for message in seen if "modules" in message] == [2, 2]
    assert (daemon.connections, seen[0]["root"]) == (1, ROOT)


def test_a_short_process_posts_what_it_has(socket_path: Path) -> None:
    seen: list[Message] = []

    def script(peer: Peer) -> None:
        seen.append(peer.read())
        seen.append(peer.read())

    with ScriptedDaemon(socket_path, script) as daemon:
        reports = UsedReports(lambda: daemon.path, _Clock())
        reports.found(ROOT, _name())
        reports.finish()
    assert _reports(seen) == [[MODERN, _name().key, 0.0]]
    assert "hello" in seen[0]


@pytest.mark.parametrize("hello", [{"capabilities": ["resolve"]}, {"capabilities": None}])
def test_a_daemon_that_does_not_want_reports_gets_none(socket_path: Path, hello: Message) -> None:
    seen: list[Message] = []
    clock = _Clock()
    with ScriptedDaemon(socket_path, serving(seen, {}, **hello)) as daemon:
        reports = _connected(daemon.path, clock)
        reports.found(ROOT, _name())
        reports.finish()
    assert len(seen) == 1


def test_without_a_daemon_nothing_happens_and_little_is_kept(tmp_path: Path) -> None:
    clock = _Clock()
    reports = UsedReports(lambda: str(tmp_path / "none"), clock)
    for number in range(10_050):
        clock.clock_s += 0.3
        reports.found(ROOT, _name(number))
    assert [len(notes) for notes in reports._waiting.values()] == [10_000]
    reports.finish()
    assert not reports._waiting


def test_a_daemon_that_others_found_sick_is_left_alone(socket_path: Path) -> None:
    seen: list[Message] = []
    with ScriptedDaemon(socket_path, serving(seen, {}, capabilities=USED)) as daemon:
        reports = UsedReports(lambda: daemon.path, _Clock(), is_well=lambda: False)
        reports.found(ROOT, _name())
        reports.finish()
    assert daemon.connections == 0


def test_a_daemon_that_comes_later_hears_of_all(socket_path: Path) -> None:
    seen: list[Message] = []
    clock = _Clock()
    reports = UsedReports(lambda: str(socket_path), clock)
    reports.found(ROOT, _name(1))
    clock.clock_s += 30
    with ScriptedDaemon(socket_path, serving(seen, {}, capabilities=USED)):
        reports.found(ROOT, _name(2))
        reports.finish()
    assert [ago_s for _, _, ago_s in _reports(seen)] == [30.0, 0.0]


def test_what_a_dead_daemon_did_not_confirm_is_told_to_the_next(socket_path: Path) -> None:
    seen: list[Message] = []
    clock, died = _Clock(), threading.Event()

    def dying(peer: Peer) -> None:
        peer.greet(capabilities=USED)
        peer.read()
        peer.close()
        died.set()

    with ScriptedDaemon(socket_path, dying, serving(seen, {}, capabilities=USED)) as daemon:
        reports = _connected(daemon.path, clock)
        reports.found(ROOT, _name(1))
        assert died.wait(10)
        clock.clock_s += 1
        reports.found(ROOT, _name(2))  # finds the line dead
        clock.clock_s += 20
        reports.found(ROOT, _name(3))
        reports.finish()
    assert [key for _, key, _ in _reports(seen)] == [_name(number).key for number in range(4)]


def test_a_daemon_that_reads_nothing_is_not_waited_for(socket_path: Path) -> None:
    clock = _Clock()

    def deaf(peer: Peer) -> None:
        peer.greet(capabilities=USED)
        peer.hang()

    with ScriptedDaemon(socket_path, deaf) as daemon:
        reports = _connected(daemon.path, clock)
        for number in range(1, 20_000):
            clock.clock_s += 0.01
            reports.found(ROOT, _name(number))
        reports.finish()
    assert clock.waits == 0
    assert daemon.connections < 100, "nor tried again with every hit"


def test_a_full_queue_of_the_listener_is_not_waited_for(socket_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path))
        listener.listen(0)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(str(socket_path))
        clock = _Clock()
        reports = UsedReports(lambda: str(socket_path), clock)
        reports.found(ROOT, _name())
        reports.finish()
        assert clock.waits == 0
        for client in clients:
            client.close()


@pytest.mark.parametrize("noise", [b"\0\xff\n", b"[]\n", b"x" * 300_000])
def test_what_is_no_daemon_is_left_alone(socket_path: Path, noise: bytes) -> None:
    clock = _Clock()

    def script(peer: Peer) -> None:
        peer.read()
        peer.send_raw(noise)
        peer.hang()

    with ScriptedDaemon(socket_path, script) as daemon:
        reports = UsedReports(lambda: daemon.path, clock)
        for number in range(200):
            clock.clock_s += 0.3
            reports.found(ROOT, _name(number))
        reports.finish()
    assert daemon.connections < 10


def test_large_batches_fit_into_messages(socket_path: Path) -> None:
    seen: list[Message] = []
    clock = _Clock()
    names = [ModuleName(f"neuronxcc-{'9' * 60}+{'a' * 60}", f"MODULE_{number:0120d}+e30acd3a") for number in range(700)]
    with ScriptedDaemon(socket_path, serving(seen, {}, capabilities=USED)) as daemon:
        reports = _connected(daemon.path, clock)
        reports._next_s = clock.clock_s + 1
        for name in names:
            reports.found(ROOT, name)
        reports.finish()
    assert {key for _, key, _ in _reports(seen)} >= {name.key for name in names[:400]}


def test_a_forked_child_tells_its_own(socket_path: Path) -> None:
    seen: list[Message] = []
    clock = _Clock()
    with ScriptedDaemon(socket_path, serving(seen, {}, capabilities=USED)) as daemon:
        reports = _connected(daemon.path, clock)
        child = os.fork()
        if child == 0:
            reports.found(ROOT, _name(7))
            reports.finish()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        reports.found(ROOT, _name(8))
        reports.finish()
    assert {message["pid"] for message in seen if "pid" in message} == {os.getpid(), child}
    assert sorted(key for _, key, _ in _reports(seen)) == [_name(number).key for number in (0, 7, 8)]


def test_two_directories_are_two_lines(socket_path: Path) -> None:
    seen: list[Message] = []
    with ScriptedDaemon(socket_path, serving(seen, {}, capabilities=USED)) as daemon:
        reports = UsedReports(lambda: daemon.path, _Clock())
        reports.found("/one", _name())
        reports.found("/two", _name())
        reports.finish()
    assert {message["root"] for message in seen if "root" in message} == {"/one", "/two"}
    assert len(_reports(seen)) == 2


def test_the_hook_tells_local_hits_and_not_what_the_daemon_brought(stack: Any, entry: Path) -> None:
    class Noted(UsedReports):
        def __init__(self) -> None:
            super().__init__(lambda: "/nowhere", _Clock())
            self.names: list[ModuleName] = []

        def found(self, root: str, name: ModuleName) -> None:
            if (root, name) not in self._seen:
                self.names.append(name)
            super().found(root, name)

    def bring(name: ModuleName) -> bool:
        (entry.parent / name.key).mkdir(exist_ok=True)
        (entry.parent / name.key / "model.done").touch()
        return True

    answers, used = Answers(), Noted()
    answers.answer = bring
    hook = Hook(answers, Notices(), None, used)
    hook.patch(stack)
    try:
        (entry / "model.done").touch()
        (entry / "model.neff").touch()
        cache = stack.CompileCacheFs(stack.CacheUrl(str(entry.parents[1]), url_type="fs"))
        for _ in range(2):
            assert cache.exists(str(entry / "model.done"))
            assert cache.exists(str(entry / "model.neff"))
            assert cache.exists(f"{entry.parent}/MODULE_9+e30acd3a/model.done")
    finally:
        hook.unpatch()
    assert used.names == [ModuleName(MODERN, KEY)]


_TRAINER = """
import sys, threading, neff
neff.install()
from libneuronxla.neuron_cc_cache import CacheUrl, create_compile_cache
cache = create_compile_cache(CacheUrl.get_cache_url())
for key in sys.argv[2:]:
    assert cache.exists(f"{sys.argv[1]}/{key}/model.done")
assert threading.active_count() == 1
"""


@pytest.mark.parametrize("with_daemon", [True, False])
def test_a_trainer_with_local_hits_alone(socket_path: Path, tmp_path: Path, with_daemon: bool) -> None:
    keys = [f"MODULE_{number}+e30acd3a" for number in range(3)]
    for key in keys:
        (tmp_path / MODERN / key).mkdir(parents=True)
        (tmp_path / MODERN / key / "model.done").touch()
    seen: list[Message] = []

    def run() -> tuple[str, str]:
        words = [sys.executable, "-c", _TRAINER, str(tmp_path / MODERN), *keys]
        env = {**standin_env(tmp_path), "NEFFD_SOCKET": str(socket_path)}
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout, done.stderr

    if not with_daemon:
        assert run() == ("", "")
        return
    with ScriptedDaemon(socket_path, serving(seen, {}, capabilities=USED)):
        assert run() == ("", "")
    assert sorted(key for _, key, _ in _reports(seen)) == keys


_WORKERS = """
import multiprocessing, sys, neff
neff.install()
from libneuronxla.neuron_cc_cache import CacheUrl, create_compile_cache
cache = create_compile_cache(CacheUrl.get_cache_url())
def find(*keys):
    for key in keys:
        assert cache.exists(f"{sys.argv[1]}/{key}/model.done")
find(sys.argv[2])
worker = multiprocessing.get_context("fork").Process(target=find, args=sys.argv[3:])
worker.start()
worker.join()
assert worker.exitcode == 0
"""


def test_what_a_worker_forked_by_multiprocessing_found_is_told_too(socket_path: Path, tmp_path: Path) -> None:
    keys = [f"MODULE_{number}+e30acd3a" for number in range(3)]
    for key in keys:
        (tmp_path / MODERN / key).mkdir(parents=True)
        (tmp_path / MODERN / key / "model.done").touch()
    seen: list[Message] = []
    with ScriptedDaemon(socket_path, serving(seen, {}, capabilities=USED)):
        words = [sys.executable, "-c", _WORKERS, str(tmp_path / MODERN), *keys]
        env = {**standin_env(tmp_path), "NEFFD_SOCKET": str(socket_path)}
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=30, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert sorted(key for _, key, _ in _reports(seen)) == keys
