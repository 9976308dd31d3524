from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neff import greeting
from neff.connection import Connection, connect, socket_candidates
from neff.errors import DaemonError, LostError, RefusedError, SilentError, UnreachableError
from neff.patience import CONNECT_S, FetchPatience
from neff.protocol import MAX_LINE_BYTES, Message
from neff.waits import Waits
from tests.unit.client.recording import RecordedWaits
from tests.unit.client.running import CLIENT, environment, finished, python
from tests.unit.client.scripted import HELLO, Peer, Script, ScriptedDaemon

LIMIT_S = 5.0


def _connect(path: Path | str, waits: Waits | None = None, limit_s: float = LIMIT_S) -> Connection:
    return connect([str(path)], greeting.of_command(), waits or Waits(), limit_s)


def _ask(connection: Connection, waits: Waits | None = None) -> list[Message]:
    patience = FetchPatience((waits or Waits()).now_s())
    return list(connection.answers("resolve", {"namespace": "n", "keys": []}, patience))


def test_candidates_in_order() -> None:
    environment = {"NEFFD_SOCKET": "/env", "XDG_RUNTIME_DIR": "/run/user/1"}
    assert socket_candidates("/given", environment) == ["/given"]
    assert socket_candidates(None, environment) == ["/env"]
    del environment["NEFFD_SOCKET"]
    assert socket_candidates(None, environment) == ["/run/neffd/neffd.sock", "/run/user/1/neffd/neffd.sock"]
    assert socket_candidates(None, {}) == ["/run/neffd/neffd.sock"]


def test_the_next_candidate_is_tried_when_one_does_not_answer(socket_path: Path) -> None:
    stale = socket_path.with_name("stale")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(stale))
    with ScriptedDaemon(socket_path, lambda peer: _greet_and_hang(peer)) as daemon:
        candidates = [str(socket_path.with_name("none")), str(stale), daemon.path]
        connection = connect(candidates, greeting.of_command(), Waits(), LIMIT_S)
        assert connection.path == daemon.path
        connection.close()


def test_nobody_there_names_every_place_and_why(socket_path: Path) -> None:
    with pytest.raises(UnreachableError, match=r"no daemon answers at \S*/s .No such file or directory.$"):
        _connect(socket_path)
    places = [str(socket_path), str(socket_path.with_name("other"))]
    with pytest.raises(UnreachableError, match=r"answers at \S*/s .No such file.* or \S*/other .No such file"):
        connect(places, greeting.of_command(), Waits(), LIMIT_S)


def test_a_path_that_is_too_long_is_named(socket_path: Path) -> None:
    with pytest.raises(UnreachableError, match=r"a socket path of 2.. bytes, at most 107"):
        _connect(socket_path.with_name("x" * 200))


def test_sockets_are_not_inherited_by_programs(socket_path: Path) -> None:
    with ScriptedDaemon(socket_path, _greet_and_hang):
        connection = _connect(socket_path)
        assert not os.get_inheritable(connection._socket.fileno())
        connection.close()
        connection.close()
        assert connection.is_closed


_WITHOUT_STREAMS = """
import os, sys
from neff.connection import open_now
from neff.waits import Waits
waits = Waits()
os.closerange(0, 3)
sock = open_now(sys.argv[1:], waits)
is_apart = not any(os.path.exists(f"/proc/self/fd/{stream}") for stream in range(3))
os._exit(0 if is_apart and sock.fileno() > 2 and not sock.get_inheritable() and not sock.getblocking() else 1)
"""


def test_the_number_of_a_closed_standard_stream_is_not_taken(socket_path: Path) -> None:
    with ScriptedDaemon(socket_path, Peer.hang):
        done = finished(python(_WITHOUT_STREAMS, str(socket_path)), environment(PYTHONPATH=str(CLIENT)))
    assert done.returncode == 0


def test_a_daemon_that_does_not_greet_is_waited_for_once(socket_path: Path) -> None:
    waits = RecordedWaits()
    with ScriptedDaemon(socket_path, Peer.hang), pytest.raises(UnreachableError, match="does not greet"):
        _connect(socket_path, waits, CONNECT_S)
    assert waits.limits_s == [0.25]


def test_a_full_queue_is_retried_within_the_limit(socket_path: Path) -> None:
    waits = RecordedWaits()
    crowd = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path))
        listener.listen(0)
        try:
            while True:
                crowd.append(socket.socket(socket.AF_UNIX))
                crowd[-1].setblocking(False)
                crowd[-1].connect(str(socket_path))
        except BlockingIOError:
            pass
        with pytest.raises(UnreachableError, match="too many others"):
            _connect(socket_path, waits, CONNECT_S)
    for sock in crowd:
        sock.close()
    assert sum(waits.limits_s) == pytest.approx(CONNECT_S)
    assert max(waits.limits_s) == 0.02


def test_a_daemon_that_hangs_after_the_greeting_is_waited_for_once(socket_path: Path) -> None:
    waits = RecordedWaits(real=1)
    with ScriptedDaemon(socket_path, _greet_and_hang):
        connection = _connect(socket_path, waits, CONNECT_S)
        with pytest.raises(SilentError):
            _ask(connection, waits)
        connection.close()
    assert waits.limits_s == [0.25, 3.0]


def test_trickling_bytes_do_not_prolong_the_limit(socket_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        while True:
            peer.read()
            peer.send_raw(b'{"id": 1, "key')
            peer.hang()

    waits = RecordedWaits(real=2, step_s=0.1)
    with ScriptedDaemon(socket_path, script):
        connection = _connect(socket_path, waits)
        with pytest.raises(SilentError):
            _ask(connection, waits)
        connection.close()
    assert waits.limits_s == [LIMIT_S, 3.0, 2.9]


def test_a_flood_of_other_messages_does_not_prolong_the_limit(socket_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.read()
        while True:
            peer.send_raw(b'{"id": 77}\n' * 1000)

    waits = RecordedWaits(real=10_000, step_s=0.5)
    with ScriptedDaemon(socket_path, script):
        connection = _connect(socket_path, waits)
        with pytest.raises(SilentError):
            _ask(connection, waits)
        connection.close()
    assert len(waits.limits_s) == 7


@pytest.mark.parametrize("size", [1, 7, 50])
def test_answers_arrive_in_pieces_of_any_size(socket_path: Path, size: int) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.read()
        data = b'{"id": 1, "state": "ready"}\n{"id": 1, "done": true}\n'
        for start in range(0, len(data), size):
            peer.send_raw(data[start : start + size])
        peer.hang()

    with ScriptedDaemon(socket_path, script):
        connection = _connect(socket_path)
        assert _ask(connection) == [{"id": 1, "state": "ready"}, {"id": 1, "done": True}]
        connection.close()


def test_a_large_request_waits_for_room(socket_path: Path) -> None:
    keys = ["k" * 100] * 2000
    seen: list[Message] = []

    def script(peer: Peer) -> None:
        peer.greet()
        seen.append(peer.read())
        peer.send({"id": 1, "done": True})
        peer.hang()

    with ScriptedDaemon(socket_path, script):
        connection = _connect(socket_path)
        connection._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        list(connection.answers("resolve", {"keys": keys}, FetchPatience(Waits().now_s())))
        connection.close()
    assert seen[0]["keys"] == keys


def _greet_and_hang(peer: Peer) -> None:
    peer.greet()
    peer.hang()


def _greet_and(then: Callable[[Peer], None]) -> Script:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.read()
        then(peer)
        peer.hang()

    return script


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", LostError),
        (b"\x00\xff\xfe\n", LostError),
        (b"[1, 2]\n", LostError),
        (b"[" * 100_000 + b"\n", LostError),
        (b"x" * (MAX_LINE_BYTES + 2), LostError),
        (b'{"id": 1, "error": {"code": "bad-request", "message": "no"}}\n', RefusedError),
        (b'{"id": null, "error": {"code": "bad-request", "message": "no"}}\n', RefusedError),
        (b'{"id": 1, "error": 5}\n', RefusedError),
    ],
)
def test_whatever_else_comes_is_an_error_of_the_daemon(socket_path: Path, data: bytes, kind: type[DaemonError]) -> None:
    with ScriptedDaemon(socket_path, _greet_and(lambda peer: peer.send_raw(data))):
        connection = _connect(socket_path)
        with pytest.raises(kind):
            _ask(connection)
        connection.close()


@pytest.mark.parametrize("data", [b"", b'{"id": 1, "st'])
def test_a_connection_that_ends_in_the_middle_is_lost(socket_path: Path, data: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.read()
        peer.send_raw(data)

    with ScriptedDaemon(socket_path, script):
        connection = _connect(socket_path)
        with pytest.raises(LostError, match="closed by the daemon"):
            _ask(connection)
        connection.close()


@pytest.mark.parametrize(
    ("hello", "kind"),
    [
        (b"\n", LostError),
        (b'{"hello": 1}\n', LostError),
        (b"{}\n", LostError),
        (b'{"id": null, "error": {"code": "unsupported-protocol", "message": "8 to 9"}}\n', RefusedError),
    ],
)
def test_a_greeting_that_is_none(socket_path: Path, hello: bytes, kind: type[DaemonError]) -> None:
    def script(peer: Peer) -> None:
        peer.read()
        peer.send_raw(hello)
        peer.hang()

    with ScriptedDaemon(socket_path, script), pytest.raises(kind):
        _connect(socket_path)


@pytest.mark.parametrize("capabilities", [[], None, "resolve", [1, {}], ["status"]])
def test_what_the_daemon_does_not_offer_is_not_asked(socket_path: Path, capabilities: Any) -> None:
    def script(peer: Peer) -> None:
        peer.greet(capabilities=capabilities)
        with pytest.raises(EOFError):
            peer.read()

    with ScriptedDaemon(socket_path, script):
        connection = _connect(socket_path)
        with pytest.raises(RefusedError, match="does not offer 'resolve'"):
            _ask(connection)
        connection.close()


def test_answers_of_an_abandoned_request_are_skipped(socket_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.read()
        peer.send({"id": 1, "n": 1}, {"id": 1, "n": 2}, {"id": 1, "done": True})
        peer.read()
        peer.send({"id": 2, "done": True})
        peer.hang()

    with ScriptedDaemon(socket_path, script):
        connection = _connect(socket_path)
        patience = FetchPatience(Waits().now_s())
        for answer in connection.answers("resolve", {}, patience):
            assert answer["n"] == 1
            break
        assert _ask(connection) == [{"id": 2, "done": True}]
        connection.close()


def test_signals_in_the_middle_of_a_wait_do_not_disturb_it(socket_path: Path) -> None:
    noticed = threading.Event()
    in_main = threading.main_thread().ident
    assert in_main is not None

    def script(peer: Peer) -> None:
        peer.read()
        signal.pthread_kill(in_main, signal.SIGUSR1)
        assert noticed.wait(5)
        peer.send(HELLO)
        peer.hang()

    before = signal.signal(signal.SIGUSR1, lambda *_: noticed.set())
    try:
        with ScriptedDaemon(socket_path, script):
            _connect(socket_path).close()
    finally:
        signal.signal(signal.SIGUSR1, before)
