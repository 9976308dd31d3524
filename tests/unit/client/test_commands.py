"""The commands' patience with a hung daemon, counted in this process."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from neff import cli, connection, exitcodes
from neff.commands import flush, prefetch, session, status
from neff.protocol import SYSTEM_SOCKET
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
    for module in (session, prefetch, flush):
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
    assert f"no permission to talk to the daemon at {socket_path}: " in capsys.readouterr().err


@pytest.mark.parametrize("system", [True, False])
def test_systemctl_is_named_only_where_the_system_socket_was_tried(
    socket_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], system: bool
) -> None:
    candidates = [SYSTEM_SOCKET, str(socket_path)] if system else [str(socket_path)]

    def nobody(path: str, *_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(connection, "_open_socket", nobody)
    for module in (cli, session):
        monkeypatch.setattr(module, "socket_candidates", lambda given: candidates)
    assert cli.main(["status"]) == exitcodes.UNREACHABLE
    error = capsys.readouterr().err
    assert all(error.count(path) == 1 for path in candidates)
    assert error.endswith(": is it running? systemctl status neffd\n" if system else ": is it running?\n")


def _remotes(status_document: dict[str, Any]) -> list[str]:
    """What is shown below the cache directories."""
    return "\n".join(status.describe(status_document)).splitlines()[2:]


@pytest.mark.parametrize(
    ("available", "reason", "shown"),
    [
        (True, None, "read-write  available  "),
        (True, "bad-token", "read-write  available, not written: bad-token  "),
        (True, "no-write-access", "read-write (no write access)  available, not written: no-write-access  "),
        (False, "no-network", "read-write  unavailable: no-network  "),
    ],
)
def test_why_a_remote_that_can_be_read_is_not_written(available: bool, reason: str | None, shown: str) -> None:
    remote = {"name": "team", "url": "u", "mode": "read-write", "can_write": False}
    _, line = _remotes({"remotes": [{**remote, "available": available, "reason": reason}]})
    assert line.startswith(f"  team  u  {shown}")


def test_remotes_that_entries_wait_for_and_nobody_configures() -> None:
    orphaned = [{"remote": "old-name", "waiting": 9}]
    line = "  old-name  not configured as read-write  9 waiting: put it back under this name, or see docs/operations.md"
    assert _remotes({"remotes": [], "orphaned": orphaned}) == ["remotes: none (nothing is shared)", line]
    assert _remotes({"remotes": [{"name": "team"}], "orphaned": orphaned})[::2] == ["remotes:", line]


def test_no_remotes_is_said() -> None:
    assert _remotes({"remotes": []}) == ["remotes: none (nothing is shared)"]
    assert _remotes({}) == []


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
