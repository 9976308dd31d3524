"""The commands' patience with a hung daemon, counted in this process."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from neff import cli, connection, exitcodes
from neff.commands import flush, prefetch, session, status
from tests.unit.client.recording import RecordedWaits
from tests.unit.client.scripted import Peer, ScriptedDaemon

KEY = "MODULE_1+e30acd3a"


@pytest.mark.parametrize(
    ("arguments", "limit_s"),
    [
        (["status"], 10),
        (["prefetch", KEY], 10),
        (["prefetch", "--wait", KEY], 30),
        (["flush", "--timeout", "7"], 17),
    ],
)
def test_a_hung_daemon_is_waited_for_once(
    socket_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], limit_s: float
) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.hang()

    waits = RecordedWaits(real=1)
    for module in (session, status, prefetch, flush):
        monkeypatch.setattr(module, "WAITS", waits)
    with ScriptedDaemon(socket_path, script) as daemon:
        assert cli.main(["--socket", daemon.path, *arguments]) == exitcodes.PENDING
    assert waits.limits_s == [2, limit_s]


def test_a_socket_of_another_group_is_told_from_no_daemon(
    socket_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: str, *_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(connection, "_open_socket", refuse)  # root may connect to any socket
    assert cli.main(["--socket", str(socket_path), "status"]) == exitcodes.UNREACHABLE
    assert f"no permission to talk to the daemon at {socket_path}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (7384, "2 h 3 min"),
        (90_000, "1 d 1 h"),
        (None, "?"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert status.duration(seconds) == text
