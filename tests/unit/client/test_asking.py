from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from neff.asking import Asker
from neff.keys import LockId, ModuleName
from neff.protocol import Message
from neff.waits import Waits
from tests.unit.client.recording import RecordedWaits
from tests.unit.client.scripted import Peer, Script, ScriptedDaemon, answering, transcript

ROOT = "/cache"
NAMESPACE = "neuronxcc-2.20.9961.0+0acef03a"


def _name(number: int = 1) -> ModuleName:
    return ModuleName(NAMESPACE, f"MODULE_{number}+e30acd3a")


def _ready(request: Message, key: str) -> list[Message]:
    return [{"state": "ready", "source": "team"}]


def _absent(request: Message, key: str) -> list[Message]:
    return [{"state": "absent", "reason": "not-on-remotes"}]


@pytest.fixture(autouse=True)
def _no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("name", "holding", "ready"),
    [
        ("v1/resolve_ready.txt", False, True),
        ("v1/resolve_absent.txt", True, False),
        ("v1/newer_daemon.txt", False, True),
        ("v1/unsupported.txt", False, False),
    ],
)
def test_golden_transcripts(socket_path: Path, name: str, holding: bool, ready: bool) -> None:
    with ScriptedDaemon(socket_path, transcript(name)) as daemon:
        asker = Asker(daemon.path)
        assert asker.is_ready(ROOT, _name(), holding=holding) is ready
        asker.close()


def test_one_answer_a_key_is_remembered(socket_path: Path) -> None:
    seen: list[Message] = []
    with ScriptedDaemon(socket_path, answering(_absent, seen)) as daemon:
        asker = Asker(daemon.path)
        for _ in range(5):
            assert not asker.is_ready(ROOT, _name(1), holding=False)
        assert not asker.is_ready(ROOT, _name(2), holding=False)
        asker.close()
    assert [message["keys"][0] for message in seen[1:]] == [_name(1).key, _name(2).key]
    assert daemon.connections == 1


def test_a_key_that_somebody_else_had_locked_is_asked_again_once_this_process_has_the_lock(socket_path: Path) -> None:
    seen: list[Message] = []

    def answer(request: Message, key: str) -> list[Message]:
        return [{"state": "ready"} if request["holding"] else {"state": "absent", "reason": "locked"}]

    with ScriptedDaemon(socket_path, answering(answer, seen)) as daemon:
        asker = Asker(daemon.path)
        assert not asker.is_ready(ROOT, _name(), holding=False)
        assert not asker.is_ready(ROOT, _name(), holding=True)
        asker.lock_taken(ROOT, _name(), LockId(1, 2))
        assert asker.is_ready(ROOT, _name(), holding=True)
        asker.close()
    assert [message["holding"] for message in seen[1:]] == [[], [_name().key]]


def test_the_greeting_tells_who_asks(socket_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUSTOM_CACHE_REPO", "org/cache")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8" * 10_000)
    monkeypatch.setenv("SLURM_JOB_ID", "")
    seen: list[Message] = []
    with ScriptedDaemon(socket_path, answering(_absent, seen)) as daemon:
        asker = Asker(daemon.path)
        asker.is_ready(str(tmp_path), _name(), holding=False)
        asker.close()
    hello = seen[0]
    stat = tmp_path.stat()
    assert (hello["root"], hello["device"], hello["inode"]) == (str(tmp_path), stat.st_dev, stat.st_ino)
    assert (hello["pid"], hello["repo"], hello["job"]["RANK"]) == (os.getpid(), "org/cache", "3")
    assert len(hello["job"]["WORLD_SIZE"]) == 200
    assert "SLURM_JOB_ID" not in hello["job"]


def test_a_cache_directory_that_was_made_anew_is_greeted_anew(socket_path: Path, tmp_path: Path) -> None:
    root, seen = tmp_path / "cache", list[Message]()
    with ScriptedDaemon(socket_path, answering(_absent, seen)) as daemon:
        asker = Asker(daemon.path)
        asker.is_ready(str(root), _name(1), holding=False)
        root.mkdir()
        asker.is_ready(str(root), _name(2), holding=False)
        asker.is_ready(str(root), _name(3), holding=False)
        asker.close()
    assert [message.get("inode") for message in seen if "root" in message] == [None, root.stat().st_ino]


def test_a_daemon_that_never_greets_costs_one_wait_a_period(socket_path: Path) -> None:
    waits = RecordedWaits()
    with ScriptedDaemon(socket_path, Peer.hang) as daemon:
        asker = Asker(daemon.path, waits=waits)
        for number in range(50):
            assert not asker.is_ready(ROOT, _name(number), holding=False)
        assert waits.limits_s == [0.25]
        waits.clock_s += 10
        for number in range(50):
            assert not asker.is_ready(ROOT, _name(number), holding=False)
        asker.close()
    assert waits.limits_s == [0.25, 0.25]


def test_a_daemon_that_stops_after_the_greeting_costs_one_answer_a_period(socket_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.hang()

    waits = RecordedWaits(real=1)
    with ScriptedDaemon(socket_path, script) as daemon:
        asker = Asker(daemon.path, waits=waits)
        for number in range(50):
            assert not asker.is_ready(ROOT, _name(number), holding=False)
        assert waits.limits_s == [0.25, 1.75]
        waits.clock_s += 40
        # The greeting does not come either now: still one attempt, and this key has had its wait.
        assert not asker.is_ready(ROOT, _name(0), holding=False)
        assert waits.limits_s == [0.25, 1.75]
        assert not asker.is_ready(ROOT, _name(1), holding=False)
        assert not asker.is_ready(ROOT, _name(2), holding=False)
        asker.close()
    assert waits.limits_s == [0.25, 1.75, 0.25]


def _slowly(waits: RecordedWaits, answer_s: float, seen: list[Message]) -> Script:
    """Answers every question after `answer_s` of the test's time: that it has none."""

    def absent(request: Message, key: str) -> list[Message]:
        waits.clock_s += answer_s
        return _absent(request, key)

    return answering(absent, seen, alive_s=1.0)


def test_a_daemon_that_takes_its_time_for_every_answer_is_not_asked_for_a_while(
    socket_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    waits, seen = RecordedWaits(real=10**6), list[Message]()
    with ScriptedDaemon(socket_path, _slowly(waits, 0.4, seen)) as daemon:
        asker = Asker(daemon.path, waits=waits)
        began_s = waits.clock_s
        for number in range(100):
            assert not asker.is_ready(ROOT, _name(number), holding=False)
        assert waits.clock_s - began_s <= 2.0
        asked = len(seen)
        assert asked == 1 + 4  # the greeting, and what can be afforded
        waits.clock_s += 30
        assert not asker.is_ready(ROOT, _name(100), holding=False)
        assert len(seen) == asked
        waits.clock_s += 10  # all of it is back
        assert not asker.is_ready(ROOT, _name(101), holding=False)
        asker.close()
    assert [record.getMessage().rpartition(" ")[2] for record in caplog.records] == ["(too-slow)"]
    assert [message["failures"]["too-slow"] for message in seen if "failures" in message] == [1]


def test_entries_that_come_slowly_are_always_worth_a_question(socket_path: Path) -> None:
    waits, seen = RecordedWaits(real=10**6), list[Message]()

    def ready(request: Message, key: str) -> list[Message]:
        waits.clock_s += 1.2
        return _ready(request, key)

    with ScriptedDaemon(socket_path, answering(ready, seen, alive_s=1.0)) as daemon:
        asker = Asker(daemon.path, waits=waits)
        assert all(asker.is_ready(ROOT, _name(number), holding=False) for number in range(100))
        asker.close()
    assert daemon.connections == 1


def test_a_daemon_that_lives_and_never_answers_is_too_slow_and_not_silent(
    socket_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    waits = PacedWaits(0.5)

    def living(peer: Peer) -> None:
        waits.pace.acquire(timeout=5)
        peer.greet(alive_s=1.0)
        request = peer.read()
        while True:
            waits.pace.acquire(timeout=5)
            peer.send({"id": request["id"], "key": request["keys"][0], "state": "asking"})

    with ScriptedDaemon(socket_path, living) as daemon:
        asker = Asker(daemon.path, waits=waits)
        for number in range(100):
            assert not asker.is_ready(ROOT, _name(number), holding=False)
        assert daemon.connections == 1
        waits.pace.release(1000)  # lets the daemon notice that nobody listens any more
        asker.close()
    assert [record.getMessage().rpartition(" ")[2] for record in caplog.records] == ["(too-slow)"]


def test_a_forked_child_has_no_more_to_spend_than_its_parent(socket_path: Path) -> None:
    waits, seen = RecordedWaits(real=10**6), list[Message]()
    with ScriptedDaemon(socket_path, _slowly(waits, 1.7, seen)) as daemon:
        asker = Asker(daemon.path, waits=waits)
        assert not asker.is_ready(ROOT, _name(1), holding=False)
        asker.after_fork_in_child()
        assert not asker.is_ready(ROOT, _name(2), holding=False)
        asker.close()
    assert [message["keys"] for message in seen if "keys" in message] == [[_name(1).key]]


class PacedWaits(RecordedWaits):
    """Every wait lets the daemon say one thing more, `step_s` of the test's time later."""

    def __init__(self, step_s: float = 1.0) -> None:
        super().__init__(real=1000, step_s=step_s)
        self.pace = threading.Semaphore(0)

    def wait_ready(self, sock: socket.socket | None, timeout_s: float, *, to_write: bool = False) -> bool:
        self.pace.release()
        return super().wait_ready(sock, timeout_s, to_write=to_write)


def test_a_fetch_without_bytes_is_given_up_and_the_daemon_still_trusted(socket_path: Path) -> None:
    waits = PacedWaits()

    def stalling(peer: Peer) -> None:
        waits.pace.acquire(timeout=5)
        peer.greet()
        peer.read()
        for _ in range(20):
            waits.pace.acquire(timeout=5)
            peer.send({"id": 1, "key": _name(1).key, "state": "fetching", "done_bytes": 7, "give_up_s": 600})

    with ScriptedDaemon(socket_path, stalling, answering(_ready, [])) as daemon:
        asker = Asker(daemon.path, waits=waits)
        assert not asker.is_ready(ROOT, _name(1), holding=False)
        assert waits.limits_s == [0.25, 0.75, 5, 4, 3, 2, 1]  # greeting took a second of the 1.75
        assert not asker.is_ready(ROOT, _name(1), holding=False)
        waits.clock_s += 40  # it has cost more than can be spent at once
        assert asker.is_ready(ROOT, _name(2), holding=False)
        asker.close()


_REAL_DAEMON = """
import json, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
sock, _ = listener.accept()
lines = sock.makefile("rb")
lines.readline()
sock.sendall(json.dumps({"hello": {"protocol": 1, "capabilities": ["resolve"], "root": "/cache"}}).encode() + b"\\n")
for line in lines:
    request = json.loads(line)
    answer = {"id": request["id"], "key": request["keys"][0], "state": "ready"}
    sock.sendall(json.dumps(answer).encode() + b"\\n")
"""


@pytest.mark.parametrize(("answered", "limits_s"), [(0, [0.25]), (1, [0.25, 1.75, 1.75])])
def test_a_stopped_daemon_costs_one_wait(socket_path: Path, answered: int, limits_s: list[float]) -> None:
    waits = RecordedWaits(real=2 * answered)
    command = [sys.executable, "-c", _REAL_DAEMON, str(socket_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"listening\n"
        asker = Asker(str(socket_path), waits=waits)
        for number in range(answered):
            assert asker.is_ready(ROOT, _name(number), holding=False)
        daemon.send_signal(signal.SIGSTOP)
        for number in range(answered, 20):
            assert not asker.is_ready(ROOT, _name(number), holding=False)
        asker.close()
        daemon.kill()
    assert waits.limits_s == limits_s


def test_a_fetch_is_followed_as_long_as_bytes_come_and_it_is_worth_it(socket_path: Path) -> None:
    waits = PacedWaits()

    def endless(peer: Peer) -> None:
        peer.greet()
        peer.read()
        for second in range(1000):
            waits.pace.acquire(timeout=5)
            peer.send({"id": 1, "key": _name().key, "state": "fetching", "done_bytes": second, "give_up_s": 60})

    with ScriptedDaemon(socket_path, endless) as daemon:
        asker = Asker(daemon.path, waits=waits)
        started_s = waits.clock_s
        assert not asker.is_ready(ROOT, _name(), holding=False)
        assert 60 <= waits.clock_s - started_s <= 62
        waits.pace.release(1000)  # lets the daemon notice that nobody listens any more
        asker.close()


def test_a_daemon_that_falls_silent_in_the_middle_of_a_fetch_is_left_alone(socket_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.read()
        peer.send({"id": 1, "key": _name().key, "state": "fetching", "done_bytes": 1, "give_up_s": 600})
        peer.hang()

    waits = RecordedWaits(real=2)
    with ScriptedDaemon(socket_path, script) as daemon:
        asker = Asker(daemon.path, waits=waits)
        for number in (1, 2, 3):
            assert not asker.is_ready(ROOT, _name(number), holding=False)
        asker.close()
    assert waits.limits_s == [0.25, 1.75, 5.0]


def test_a_restarted_daemon_is_asked_again_at_once(socket_path: Path) -> None:
    def once(peer: Peer) -> None:
        peer.greet()
        peer.read()
        peer.send({"id": 1, "key": _name(1).key, "state": "ready"}, {"id": 1, "done": True})

    with ScriptedDaemon(socket_path, once, answering(_ready, [])) as daemon:
        asker = Asker(daemon.path)
        assert asker.is_ready(ROOT, _name(1), holding=False)
        assert asker.is_ready(ROOT, _name(2), holding=False)
        asker.close()
    assert daemon.connections == 2


def test_a_daemon_that_dies_at_every_question_is_left_alone(socket_path: Path) -> None:
    def dying(peer: Peer) -> None:
        peer.greet()
        peer.read()

    with ScriptedDaemon(socket_path, dying) as daemon:
        asker = Asker(daemon.path)
        for number in range(10):
            assert not asker.is_ready(ROOT, _name(number), holding=False)
    assert daemon.connections == 1


def test_a_fault_of_the_daemon_is_about_one_module_alone(socket_path: Path) -> None:
    seen: list[Message] = []

    def script(peer: Peer) -> None:
        peer.greet(capabilities=["resolve", "wait"])
        while True:
            request = peer.read()
            seen.append(request)
            if request["op"] == "wait" or request["keys"] == [_name(1).key]:
                peer.send({"id": request["id"], "error": {"code": "internal-error", "message": "its log says more"}})
            else:
                peer.send({"id": request["id"], "key": request["keys"][0], "state": "ready"})
                peer.send({"id": request["id"], "done": True})

    with ScriptedDaemon(socket_path, script) as daemon:
        asker = Asker(daemon.path)
        for _ in range(2):
            assert not asker.is_ready(ROOT, _name(1), holding=False)
        assert asker.is_ready(ROOT, _name(2), holding=False)
        assert asker.wait_for_lock(ROOT, _name(1)) is None
        assert asker.is_ready(ROOT, _name(3), holding=False)
        assert asker.is_well
        asker.close()
    assert daemon.connections == 1
    assert [request["op"] for request in seen] == ["resolve", "resolve", "wait", "resolve"], "none of them twice"


def test_a_stopping_daemon_says_nothing_about_the_key(socket_path: Path) -> None:
    def stopping(request: Message, key: str) -> list[Message]:
        return [{"state": "absent", "reason": "stopping"}]

    waits = RecordedWaits(real=100)
    with ScriptedDaemon(socket_path, answering(stopping, [])) as daemon:
        asker = Asker(daemon.path, waits=waits)
        assert not asker.is_ready(ROOT, _name(), holding=False)
        asker.close()
    with ScriptedDaemon(socket_path, answering(_ready, [])):
        assert not asker.is_ready(ROOT, _name(), holding=False)
        waits.clock_s += 10
        assert asker.is_ready(ROOT, _name(), holding=False)
        asker.close()


def test_each_reason_is_said_once(socket_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def refused(request: Message, key: str) -> list[Message]:
        return [{"state": "absent", "reason": "refused"}]

    with ScriptedDaemon(socket_path, answering(refused, [], root=None, reason="other-cache-dir")) as daemon:
        asker = Asker(daemon.path)
        for number in range(5):
            asker.is_ready(ROOT, _name(number), holding=False)
        asker.close()
    for number in range(5, 10):
        asker.is_ready(ROOT, _name(number), holding=False)
    reasons = [record.getMessage().rpartition(" ")[2] for record in caplog.records]
    assert reasons == ["(other-cache-dir)", "(refused)", "(no-daemon)"]
    assert {(record.name, record.levelno) for record in caplog.records} == {("neff", logging.WARNING)}


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (
            "other-cache-dir",
            "this process's cache directory /cache is none that the daemon at {path} manages; "
            "its graphs are compiled and not shared: add it to cache_dirs",
        ),
        (
            "repo-not-configured",
            "the daemon at {path} does not use the Hub repo that this environment names; everything else works",
        ),
        ("some-new-reason", "the daemon at {path} cannot serve as asked"),
    ],
)
def test_why_a_daemon_cannot_serve_as_asked(
    socket_path: Path, caplog: pytest.LogCaptureFixture, reason: str, text: str
) -> None:
    with ScriptedDaemon(socket_path, answering(_absent, [], reason=reason)) as daemon:
        asker = Asker(daemon.path)
        asker.is_ready(ROOT, _name(), holding=False)
        asker.close()
    expected = f"neff: {text.format(path=daemon.path)} ({reason})"
    assert [record.getMessage() for record in caplog.records] == [expected]


def test_everyday_misses_are_not_worth_a_word(socket_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedDaemon(socket_path, answering(_absent, [])) as daemon:
        asker = Asker(daemon.path)
        asker.is_ready(ROOT, _name(), holding=False)
        asker.close()
    assert not caplog.records


def test_threads_have_a_connection_each_and_share_the_answers(socket_path: Path) -> None:
    barrier = threading.Barrier(8)
    seen: list[Message] = []
    with ScriptedDaemon(socket_path, answering(_ready, seen)) as daemon:
        asker = Asker(daemon.path)

        def ask(number: int) -> bool:
            barrier.wait(5)
            own = asker.is_ready(ROOT, _name(number), holding=False)
            barrier.wait(5)
            return own and all(asker.is_ready(ROOT, _name(other), holding=False) for other in range(8))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(ask, range(8)))
        asker.close()
        assert daemon.connections == 8
    assert sum("keys" in message for message in seen) == 8


def test_threads_together_make_one_attempt_at_a_daemon_that_does_not_greet(socket_path: Path) -> None:
    barrier = threading.Barrier(8)
    waits = RecordedWaits()
    with ScriptedDaemon(socket_path, Peer.hang) as daemon:
        asker = Asker(daemon.path, waits=waits)

        def ask(number: int) -> bool:
            barrier.wait(5)
            return asker.is_ready(ROOT, _name(number), holding=False)

        with ThreadPoolExecutor(8) as pool:
            assert not any(pool.map(ask, range(8)))
    assert waits.limits_s == [0.25]


def test_ctrl_c_passes_and_leaves_a_usable_state(socket_path: Path) -> None:
    class InterruptedWaits(RecordedWaits):
        def wait_ready(self, sock: socket.socket | None, timeout_s: float, *, to_write: bool = False) -> bool:
            if len(self.limits_s) == 1:
                self.limits_s.append(timeout_s)
                raise KeyboardInterrupt
            return super().wait_ready(sock, timeout_s, to_write=to_write)

    with ScriptedDaemon(socket_path, answering(_ready, [])) as daemon:
        asker = Asker(daemon.path, waits=InterruptedWaits(real=100))
        with pytest.raises(KeyboardInterrupt):
            asker.is_ready(ROOT, _name(), holding=False)
        assert asker.is_ready(ROOT, _name(), holding=False)
        asker.close()
    assert daemon.connections == 2


def test_a_turn_that_is_never_given_back_costs_one_question(socket_path: Path) -> None:
    with ScriptedDaemon(socket_path, answering(_ready, [])) as daemon:
        asker = Asker(daemon.path)
        asker._contact_lock.acquire()  # by whom a signal ended in that very moment
        assert not asker.is_ready(ROOT, _name(1), holding=False)
        assert asker.is_ready(ROOT, _name(2), holding=False)
        asker.close()


def _in_child(check: Callable[[], bool]) -> bool:
    """Run `check` in a forked child that ends without the parent's clean-up."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@contextlib.contextmanager
def _living_child() -> Iterator[None]:
    """A forked child that does nothing, for as long as this lasts."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    try:
        yield
    finally:
        os.close(writing)
        os.close(reading)
        os.waitpid(pid, 0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
class TestFork:
    """The scripted daemon is a thread here, so these are forks of a process with threads, as trainers are."""

    def test_a_child_opens_its_own_connection_and_keeps_the_answers(self, socket_path: Path) -> None:
        seen: list[Message] = []
        with ScriptedDaemon(socket_path, answering(_ready, seen)) as daemon:
            asker = Asker(daemon.path)
            assert asker.is_ready(ROOT, _name(1), holding=False)
            assert _in_child(lambda: asker.is_ready(ROOT, _name(1), holding=False))
            assert daemon.connections == 1
            assert _in_child(lambda: asker.is_ready(ROOT, _name(2), holding=False))
            assert daemon.connections == 2
            assert asker.is_ready(ROOT, _name(3), holding=False)
            assert daemon.connections == 2
            asker.close()
        pids = [message["pid"] for message in seen if "pid" in message]
        assert pids[0] == os.getpid() != pids[1]

    def test_a_living_child_does_not_keep_the_parents_connection_open(self, socket_path: Path) -> None:
        ended = threading.Event()

        def script(peer: Peer) -> None:
            peer.greet()
            request = peer.read()
            peer.send({"id": 1, "key": request["keys"][0], "state": "ready"}, {"id": 1, "done": True})
            with pytest.raises(EOFError):
                peer.read()
            ended.set()

        with ScriptedDaemon(socket_path, script) as daemon:
            asker = Asker(daemon.path)
            asker.is_ready(ROOT, _name(), holding=False)
            with _living_child():
                asker.close()
                assert ended.wait(5)

    def test_nor_one_whose_greeting_was_under_way(self, socket_path: Path) -> None:
        greeting, ended = threading.Event(), threading.Event()

        def silent(peer: Peer) -> None:
            peer.read()
            greeting.set()
            with pytest.raises(EOFError):
                peer.read()
            ended.set()

        with ScriptedDaemon(socket_path, silent) as daemon:
            asker = Asker(daemon.path, waits=Waits())
            asking = threading.Thread(target=asker.is_ready, args=(ROOT, _name()), kwargs={"holding": False})
            asking.start()
            assert greeting.wait(5)
            with _living_child():
                asking.join()
                assert ended.wait(5)

    def test_locks_held_at_the_fork_do_not_matter_to_the_child(self, socket_path: Path) -> None:
        with ScriptedDaemon(socket_path, answering(_ready, [])) as daemon:
            asker = Asker(daemon.path)
            with asker._contact_lock, asker._state_lock:
                assert _in_child(lambda: asker.is_ready(ROOT, _name(), holding=False))

    def test_a_child_inherits_the_back_off(self, socket_path: Path) -> None:
        waits = RecordedWaits()
        with ScriptedDaemon(socket_path, Peer.hang) as daemon:
            asker = Asker(daemon.path, waits=waits)
            asker.is_ready(ROOT, _name(1), holding=False)
            assert _in_child(lambda: not asker.is_ready(ROOT, _name(2), holding=False) and len(waits.limits_s) == 1)
