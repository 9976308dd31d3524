"""A wait for another process's lock, seen from the client: against daemons that do what a script says."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from neff.asking import Asker
from neff.connection import Connection
from neff.keys import LockId, ModuleName
from neff.protocol import FREE, READY, Message
from tests.unit.client.recording import RecordedWaits
from tests.unit.client.scripted import Peer, Script, ScriptedDaemon

ROOT = "/cache"
NAME = ModuleName("neuronxcc-2.20.9961.0+0acef03a", "MODULE_1+e30acd3a")
OTHER = ModuleName(NAME.namespace, "MODULE_2+e30acd3a")
LOCK = LockId(7, 8)
CAPABLE = {"capabilities": ["resolve", "holding", "released", "wait"]}
COMPILING: Message = {
    "state": "compiling",
    "holder": "process",
    "pid": 4711,
    "uid": 1000,
    "since_s": 90,
    "usually_s": 30,
}


def waited(*answers: Message, seen: list[Message] | None = None) -> Script:
    """Greets, and answers every wait with these."""

    def script(peer: Peer) -> None:
        hello = peer.greet(**CAPABLE)
        if seen is not None:
            seen.append(hello)
        while True:
            request = peer.read()
            if seen is not None:
                seen.append(request)
            if request["op"] == "wait":
                peer.send(*({"id": request["id"], **answer} for answer in answers))

    return script


@pytest.mark.parametrize("end", [READY, FREE])
def test_the_end_of_a_wait(socket_path: Path, end: str) -> None:
    with ScriptedDaemon(socket_path, waited(COMPILING, COMPILING, {"state": end, "done": True})) as daemon:
        asker = Asker(daemon.path)
        assert asker.wait_for_lock(ROOT, NAME) == end
        assert asker.wait_for_lock(ROOT, NAME) == end
        asker.close()
    assert daemon.connections == 1


def test_who_is_not_let_wait_asks_again_after_a_moment_only(socket_path: Path) -> None:
    seen: list[Message] = []
    refusal = {"state": "refused", "reason": "too-many-waiters", "done": True}
    with ScriptedDaemon(socket_path, waited(refusal, seen=seen)) as daemon:
        waits = RecordedWaits(real=100)
        asker = Asker(daemon.path, waits=waits)
        for _ in range(3):
            assert asker.wait_for_lock(ROOT, NAME) is None
        waits.clock_s += 10
        assert asker.wait_for_lock(ROOT, NAME) is None
        asker.close()
    assert [message.get("op") for message in seen] == [None, "wait", "wait"]


def test_a_daemon_that_knows_no_waiting_is_fine(socket_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def older(peer: Peer) -> None:
        peer.greet()
        request = peer.read()
        assert request["op"] == "resolve"
        peer.send({"id": request["id"], "key": NAME.key, "state": "ready"}, {"id": request["id"], "done": True})
        peer.hang()

    with ScriptedDaemon(socket_path, older) as daemon:
        asker = Asker(daemon.path)
        assert asker.wait_for_lock(ROOT, NAME) is None
        asker.lock_taken(ROOT, NAME, LOCK)
        asker.lock_released(ROOT, NAME, LOCK)
        assert asker.is_ready(ROOT, NAME, holding=False)
        asker.close()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("holder", "words"),
    [
        ({}, "process 4711 (uid 1000) compiles it, for 1.5 min, usually 0.5 min"),
        (
            {"holder": "gone", "usually_s": None},
            "process 4711 (uid 1000) has ended, what it started still compiles it, for 1.5 min",
        ),
        (
            {"holder": "gone", "usually_s": None, "at_work": [4712, 4713]},
            "process 4711 (uid 1000) has ended, what it started still compiles it (process 4712, 4713), for 1.5 min",
        ),
        ({"holder": "unknown", "pid": None}, "a process that neffd does not know has locked it, for 1.5 min"),
        ({"holder": "neffd", "pid": None, "since_s": None}, "neffd is bringing it, for ?"),
    ],
)
def test_once_a_minute_the_wait_is_told(
    socket_path: Path, caplog: pytest.LogCaptureFixture, holder: Message, words: str
) -> None:
    answers = [COMPILING | holder] * 130
    with ScriptedDaemon(socket_path, waited(*answers, {"state": READY, "done": True})) as daemon:
        waits = RecordedWaits(real=10**6, step_s=0.0)

        class Seconds(RecordedWaits):
            """A second for each message."""

            def now_s(self) -> float:
                self.clock_s += 0.5  # asked twice a message
                return self.clock_s

        waits = Seconds(real=10**6)
        asker = Asker(daemon.path, waits=waits)
        assert asker.wait_for_lock(ROOT, NAME) == READY
        asker.close()
    told = [record.getMessage() for record in caplog.records]
    assert 1 <= len(told) <= 4
    assert all(f"waiting for {NAME.key}: {words}" in line for line in told)


def test_a_daemon_that_dies_during_a_wait_is_left_alone(socket_path: Path) -> None:
    def dies(peer: Peer) -> None:
        peer.greet(**CAPABLE)
        request = peer.read()
        peer.send({"id": request["id"], **COMPILING})

    with ScriptedDaemon(socket_path, dies) as daemon:
        asker = Asker(daemon.path)
        assert asker.wait_for_lock(ROOT, NAME) is None
        assert asker.wait_for_lock(ROOT, NAME) is None
        asker.close()
    assert daemon.connections == 1


def test_a_daemon_that_falls_silent_during_a_wait_is_left_alone(socket_path: Path) -> None:
    def silent(peer: Peer) -> None:
        peer.greet(**CAPABLE)
        peer.read()
        peer.hang()

    with ScriptedDaemon(socket_path, silent) as daemon:
        waits = RecordedWaits(real=1)
        asker = Asker(daemon.path, waits=waits)
        assert asker.wait_for_lock(ROOT, NAME) is None
        assert waits.limits_s[-1] == 5.0
        assert asker.wait_for_lock(ROOT, NAME) is None
        assert len(waits.limits_s) == 2
        asker.close()


def test_ctrl_c_withdraws_the_wait(socket_path: Path) -> None:
    ended = []

    def watching(peer: Peer) -> None:
        peer.greet(**CAPABLE)
        request = peer.read()
        peer.send({"id": request["id"], **COMPILING})
        os.kill(os.getpid(), signal.SIGINT)
        try:
            peer.read()
        except (EOFError, ConnectionResetError):
            ended.append(True)

    with ScriptedDaemon(socket_path, watching) as daemon:
        asker = Asker(daemon.path)
        with pytest.raises(KeyboardInterrupt):
            asker.wait_for_lock(ROOT, NAME)
    assert ended == [True]


def test_locks_are_told_and_told_again_to_a_new_daemon(socket_path: Path) -> None:
    first: list[Message] = []
    second: list[Message] = []
    told = {"namespace": NAME.namespace, "key": NAME.key, "inode": 7, "ctime_ns": 8}

    def ends(peer: Peer) -> None:
        peer.greet(**CAPABLE)
        first.append(peer.read())
        request = peer.read()
        peer.send({"id": request["id"], "state": READY, "done": True})

    with ScriptedDaemon(socket_path, ends, waited({"state": FREE, "done": True}, seen=second)) as daemon:
        asker = Asker(daemon.path)
        asker.lock_taken(ROOT, NAME, LOCK)
        assert asker.wait_for_lock(ROOT, NAME) == READY
        assert asker.wait_for_lock(ROOT, NAME) == FREE  # on a new connection
        asker.lock_released(ROOT, NAME, LOCK)
        asker.lock_released(ROOT, NAME, LOCK)  # that is known already
        assert asker.wait_for_lock(ROOT, NAME) == FREE
        asker.close()
    at_ns = first[0].pop("at_ns")
    assert first == [{"id": 1, "op": "holding", **told}]
    assert [message.get("op") for message in second] == [None, "holding", "wait", "released", "wait"]
    assert {**told, "op": "holding", "id": 1, "at_ns": at_ns} == second[1], "since when does not change"


def test_a_child_tells_nothing_of_its_parents_locks(socket_path: Path) -> None:
    seen: list[Message] = []
    with ScriptedDaemon(socket_path, waited({"state": FREE, "done": True}, seen=seen)) as daemon:
        asker = Asker(daemon.path)
        asker.lock_taken(ROOT, NAME, LOCK)
        asker.after_fork_in_child()
        asker.lock_released(ROOT, NAME, LOCK)
        assert asker.wait_for_lock(ROOT, NAME) == FREE
        asker.close()
    assert [message.get("op") for message in seen].count("holding") <= 1
    assert "released" not in [message.get("op") for message in seen]


def test_a_dead_daemon_is_not_told_again_and_again(socket_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asker = Asker(str(socket_path))
    asker.lock_taken(ROOT, NAME, LOCK)
    seen: list[Message] = []
    with ScriptedDaemon(socket_path, waited(seen=seen)):
        for _ in range(10):  # within the back-off
            asker.lock_taken(ROOT, NAME, LOCK)
            asker.lock_released(ROOT, NAME, LOCK)
    assert seen == []


def test_a_starved_daemon_finds_the_message_later(socket_path: Path) -> None:
    messages: list[Message] = []

    def starved(peer: Peer) -> None:
        peer.read()  # maybe after what comes later
        peer.hang()

    def later(peer: Peer) -> None:
        messages.extend([peer.read(), peer.read()])

    with ScriptedDaemon(socket_path, starved, later) as daemon:
        asker = Asker(daemon.path, waits=RecordedWaits())
        assert not asker.is_ready(ROOT, NAME, holding=False)
        asker.lock_taken(ROOT, NAME, LOCK)
        while len(messages) < 2:
            assert daemon.connections <= 2
        asker.close()
    assert messages[0]["hello"]["root"] == ROOT
    assert messages[1]["op"] == "holding"
    assert messages[1]["inode"] == 7


def test_a_slow_daemon_is_told_of_locks_without_waiting_for_it(socket_path: Path) -> None:
    waits, seen = RecordedWaits(real=10**6), list[Message]()

    def slow(peer: Peer) -> None:
        peer.greet(**CAPABLE)
        request = peer.read()
        waits.clock_s += 1.7
        peer.send({"id": request["id"], "key": NAME.key, "state": "absent"}, {"id": request["id"], "done": True})

    def later(peer: Peer) -> None:
        seen.extend([peer.read(), peer.read()])

    with ScriptedDaemon(socket_path, slow, later) as daemon:
        asker = Asker(daemon.path, waits=waits)
        assert not asker.is_ready(ROOT, NAME, holding=False)
        waited = len(waits.limits_s)
        asker.lock_taken(ROOT, NAME, LOCK)
        assert len(waits.limits_s) == waited
        while len(seen) < 2:
            assert daemon.connections <= 2
        asker.close()
    assert seen[1]["op"] == "holding"


def test_failures_are_told_with_the_next_greeting_once(socket_path: Path) -> None:
    waits = RecordedWaits(real=100)
    asker = Asker(str(socket_path), waits=waits)
    for _ in range(3):  # one attempt, then the back-off
        assert asker.wait_for_lock(ROOT, NAME) is None
    waits.clock_s += 100
    assert asker.wait_for_lock(ROOT, NAME) is None
    seen: list[Message] = []
    with ScriptedDaemon(socket_path, waited({"state": FREE, "done": True}, seen=seen)):
        waits.clock_s += 100
        assert asker.wait_for_lock(ROOT, NAME) == FREE
        asker.close()
        assert asker.wait_for_lock(ROOT, NAME) == FREE
        asker.close()
    greetings: list[Any] = [message for message in seen if "op" not in message]
    assert [greeting.get("failures") for greeting in greetings] == [{"no-daemon": 2}, None]


def test_failures_are_told_once_where_threads_greet_one_behind_the_other(
    socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Message] = []
    greeted, introduce = threading.Event(), Asker._introduce

    def behind(asker: Asker, connection: Connection, *rest: Any) -> None:
        if not greeted.is_set():  # the first has greeted: the second does now, and is through before it goes on
            greeted.set()
            other = threading.Thread(target=asker.wait_for_lock, args=(ROOT, OTHER))
            other.start()
            other.join(10)
        introduce(asker, connection, *rest)

    monkeypatch.setattr(Asker, "_introduce", behind)
    with ScriptedDaemon(socket_path, waited({"state": FREE, "done": True}, seen=seen)) as daemon:
        asker = Asker(daemon.path)
        asker.count_failure("too-slow")
        assert asker.wait_for_lock(ROOT, NAME) == FREE
        asker.close()
    greetings: list[Any] = [message for message in seen if "op" not in message]
    assert [greeting.get("failures") for greeting in greetings] == [{"too-slow": 1}, None]
