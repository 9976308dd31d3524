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
from neffd.metrics import Metrics
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


def test_what_no_command_expects_of_the_system_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert cli.main(["du", "--cache_dir", "."]) == exitcodes.FAILED
    assert capsys.readouterr().err == "neff: No such file or directory\n"


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


def test_runs_are_shown_with_what_they_were_spared() -> None:
    named = {"key": "RUN_1", "model": "org/m", "modules": 3, "local": 1, "fetched": 2, "compiled": 0, "saved_s": 60.0}
    unnamed = {"key": "", "instance": "group:1.2", "model": None, "modules": 1, "local": 0, "fetched": 0, "compiled": 1}
    shown = list(status.describe({"runs": {"saved_s": 4000.0, "running": [named, unnamed]}}))
    assert shown[-4:] == [
        "\nruns:",
        "  org/m: 3 modules (1 local, 2 fetched, 0 compiled), 1 min saved, RUN_1",
        "  group:1.2: 1 module (0 local, 0 fetched, 1 compiled)",
        "  saved in all: 1 h 6 min of compiling",
    ]


def test_who_is_beyond_a_limit_and_whose_runs_are_not_told() -> None:
    run = {"instance": "group:1.2", "key": "RUN_1", "modules": 1, "local": 1, "withheld": "untrusted-owner"}
    met = {"uid": 1002, "reason": "too-many-connections", "times": 34, "ago_s": 61.0}
    assert list(status.describe({"runs": {"running": [run]}, "limits": [met]}))[1:] == [
        "\nruns:",
        "  group:1.2: 1 module (1 local, 0 fetched, 0 compiled), RUN_1, not told to remotes: untrusted-owner",
        "\nbeyond a limit:",
        "  uid 1002: too-many-connections, 34 times, last 1 min ago",
    ]


def _remotes(status_document: dict[str, Any]) -> list[str]:
    """What is shown below the cache directories."""
    return "\n".join(status.describe(status_document)).splitlines()[2:]


def test_how_full_a_cache_directory_is() -> None:
    space = {"bytes": 2e6, "free_bytes": 5e6, "max_bytes": None, "evicted_entries": 0, "evicted_bytes": 0}

    def shown(**changes: Any) -> list[str]:
        cache_dir = {"path": "/c", "entries": {}, "space": space | changes}
        return [line.strip() for line in status.describe({"cache_dirs": [cache_dir]}) if " MB" in line]

    assert shown() == ["2.0 MB, 5.0 MB free on its disk"]
    assert shown(max_bytes=3e6, evicted_entries=2, evicted_bytes=1e6) == [
        "2.0 MB of at most 3.0 MB, 5.0 MB free on its disk",
        "2 evicted since the start, 1.0 MB",
    ]


@pytest.mark.parametrize(
    ("available", "reason", "shown"),
    [
        (True, None, "read-write  available  "),
        (True, "bad-token", "read-write  available, not written: bad-token  "),
        (True, "no-write-access", "read-write (no write access)  available, not written: no-write-access  "),
        (False, "no-network", "read-write  unavailable: no-network  "),
        (None, None, "read-write  not asked yet  "),
        (None, "bad-token", "read-write  not asked yet, not written: bad-token  "),
    ],
)
def test_why_a_remote_that_can_be_read_is_not_written(available: bool | None, reason: str | None, shown: str) -> None:
    remote = {"name": "team", "url": "u", "mode": "read-write", "can_write": False}
    _, line = _remotes({"remotes": [{**remote, "available": available, "reason": reason}]})
    assert line.startswith(f"  team  u  {shown}")


def test_remotes_that_entries_wait_for_and_nobody_configures() -> None:
    orphaned = [{"remote": "old-name", "waiting": 9}]
    line = "  old-name  not configured as read-write  9 waiting: put it back under this name, or see docs/operations.md"
    assert _remotes({"remotes": [], "orphaned": orphaned}) == ["remotes: none (nothing is shared)", line]
    assert _remotes({"remotes": [{"name": "team"}], "orphaned": orphaned})[::2] == ["remotes:", line]


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        (
            {"holder": "process", "pid": 7, "uid": 1000, "since_s": 75, "usually_s": 130, "waiting": 63},
            "process 7 of uid 1000, for 1 min, usually 2 min, 63 waiting",
        ),
        (
            {"holder": "gone", "pid": 7, "uid": 0, "since_s": 5, "waiting": 0},
            "process 7 of uid 0, which is gone, for 5 s",
        ),
        (
            {"holder": "gone", "pid": 7, "uid": 0, "since_s": 5, "at_work": [8, "\x1b9"]},
            "process 7 of uid 0, which is gone (still at it: process 8, ?9), for 5 s",
        ),
        ({"holder": "neffd", "since_s": 0.4}, "neffd, which is bringing it, for 0 s"),
        ({"holder": "unknown", "pid": None, "since_s": 7200.0}, "locked by an unknown process, for 2 h 0 min"),
        ({"holder": ["?"], "waiting": "many"}, "locked by an unknown process, for ?"),
    ],
)
def test_who_compiles_what(row: dict[str, Any], shown: str) -> None:
    assert _remotes({"compiling": [{"name": "ns/key", **row}]})[-1] == f"  ns/key: {shown}"


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


def test_what_is_parked_beyond_the_list_is_counted() -> None:
    parked = [{"name": f"m{number}", "reason": "namespace-full"} for number in range(2)]
    lines = _remotes({"remotes": [{"name": "team", "journal": {"waiting": 0, "parked_count": 7, "parked": parked}}]})
    assert lines[2:] == ["    parked: m0: namespace-full", "    parked: m1: namespace-full", "    and 5 more parked"]


def test_refused_copies_are_named_with_their_folders() -> None:
    shown = [
        {"name": "m1", "reason": "short-neff", "folder": "/staging/refused/m1"},
        {"name": "m2", "reason": "digest-mismatch", "folder": None},
    ]
    lines = _remotes({"remotes": [{"name": "team", "refused": {"count": 3, "shown": shown}}]})
    assert lines[2:] == [
        "    refused: m1: short-neff, kept in /staging/refused/m1",
        "    refused: m2: digest-mismatch",
        "    and 1 more refused",
    ]


def test_a_side_that_is_given_a_rest_says_why_and_how_long() -> None:
    read = {"state": "open", "reason": "rate-limited", "retry_s": 40.2}
    write = {"state": "half-open", "reason": "server-error", "retry_s": 0.0}
    lines = _remotes({"remotes": [{"name": "team", "breaker": {"read": read, "write": write}}]})
    assert lines[2:] == [
        "    not read for 40 s: rate-limited",
        "    not written until a first try succeeds: server-error",
    ]
    closed = {"state": "closed", "reason": None, "retry_s": 0.0}
    assert len(_remotes({"remotes": [{"name": "team", "breaker": {"read": closed, "write": None}}]})) == 2


def test_what_is_fetched_beyond_the_list_is_counted() -> None:
    fetches = [{"name": "ns/key", "remote": "team", "done_bytes": 0, "total_bytes": 1e6, "since_s": 3}]
    lines = _remotes({"fetching": fetches, "fetching_count": 3400})
    assert lines[1:] == [
        "  ns/key from team: 0.0 MB of 1.0 MB, 3 s",
        "  and 3399 more under way, or waiting for their turn",
    ]
    assert _remotes({"fetching": fetches})[1:] == lines[1:2]


def test_a_command_that_mends_is_shown_whole() -> None:
    """Cut in its path it would be of no use, or touch something else."""
    command = f"rm '/fsx/{'d' * 300}/model.hlo_module.pb.lock'"
    detail = f"for 10 min; these processes name it: {'x' * 200} 4711"
    problem = {"reason": "stale-lock", "detail": detail, "hint": f"{command}\n\x1b"}
    shown = list(status.describe({"cache_dirs": [{"path": "/c", "problems": [problem]}]}))
    assert shown[-2:] == [f"    problem: stale-lock: {detail}", f"    mend it: {command}??"]
    refused = {"count": 1, "shown": [{"name": "n/M", "reason": "digest-mismatch", "folder": "/f" * 150}]}
    assert _remotes({"remotes": [{"name": "team", "refused": refused}]})[-1].endswith(f"kept in {'/f' * 150}")


def test_what_is_so_now_is_not_shown_as_counted_since_the_start() -> None:
    gauges = {family.name for family in Metrics().registry.collect() if family.type == "gauge"}
    assert "neffd_tasks" in gauges
    assert list(status.describe({"counters": dict.fromkeys(gauges, 3)}))[1:] == []
    assert list(status.describe({"counters": {"neffd_scans": 3}}))[-1] == "  neffd_scans  3"
