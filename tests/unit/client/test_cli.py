"""The `neff` command as a real process against a scripted daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from neff import __version__, exitcodes
from neff.protocol import Message
from tests.unit.client.scripted import Peer, Script, ScriptedDaemon

NAMESPACE = "neuronxcc-2.20.9961.0+0acef03a"
KEYS = [f"MODULE_{number}+e30acd3a" for number in range(3)]
STATUS: Message = {
    "schema": 1,
    "version": "0.1.0",
    "pid": 4711,
    "uptime_s": 7384.2,
    "state": "running",
    "cache_dirs": [
        {
            "path": "/var/tmp/neuron-compile-cache",
            "device": 64512,
            "inode": 131074,
            "staging": "/var/tmp/neuron-compile-cache.neffd",
            "entries": {"ready": 12, "compiling": 1, "pending": 0, "failed": 2},
            "problems": [{"reason": "cannot-share", "detail": "mode 0700", "hint": "chmod g+rwxs /var/tmp/x"}],
        }
    ],
    "remotes": [
        {
            "name": "team",
            "url": "file:///mnt/neff",
            "mode": "read-write",
            "available": True,
            "reason": None,
            "can_write": True,
            "catalog": {"namespaces": 1, "keys": 120, "age_s": 4.2},
            "journal": {"waiting": 2, "oldest_s": 90.0, "parked": [{"name": "n/MODULE_x", "reason": "namespace-full"}]},
        },
        {
            "name": "public",
            "url": "hf://org/public",
            "mode": "read",
            "available": False,
            "reason": "no-network",
            "can_write": False,
            "catalog": {"namespaces": 0, "keys": 0, "age_s": None},
            "journal": {"waiting": 0, "oldest_s": None, "parked": []},
        },
    ],
    "fetching": [{"name": "n/M", "remote": "team", "done_bytes": 1_500_000, "total_bytes": 4_000_000, "since_s": 3.0}],
    "counters": {
        "hits": 1_234_567,
        "misses": {"state=absent,reason=locked": 2, "state=ready,reason=": 4, "reason=": 5, "reason=disk": 0},
        "fetched_bytes": {"remote=team": 1_095_240},
        "idle": 0,
    },
}
STATUS_TEXT = """\
neffd 0.1.0, running, pid 4711, up 2 h 3 min

cache directories:
  /var/tmp/neuron-compile-cache: 12 ready, 1 compiling, 0 pending, 2 failed
    problem: cannot-share: mode 0700
    mend it: chmod g+rwxs /var/tmp/x

remotes:
  team    file:///mnt/neff  read-write  available                120 keys in 1 namespace, read 4 s ago
    2 waiting for upload, the oldest for 1 min
    parked: n/MODULE_x: namespace-full
  public  hf://org/public   read        unavailable: no-network  0 keys in 0 namespaces, never read

fetching:
  n/M from team: 1.5 MB of 4.0 MB, 3 s

since the start:
  fetched_bytes{remote=team}          1.1 MB
  hits                                1234567
  misses{state=absent,reason=locked}  2
  misses{state=ready}                 4
  misses                              5
"""


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "neff.cli", *arguments]


def _neff(*arguments: str, socket: Path | str | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if socket is not None:
        environment["NEFFD_SOCKET"] = str(socket)
    return subprocess.run(
        _command(*arguments), capture_output=True, text=True, timeout=30, check=False, env=environment
    )


def _answer(*answers: Message, requests: list[Message] | None = None) -> Script:
    def script(peer: Peer) -> None:
        hello = peer.greet()
        assert (hello["root"], hello["repo"], hello["job"]) == (None, None, {})
        while True:
            request = peer.read()
            if requests is not None:
                requests.append(request)
            peer.send(*({"id": request["id"], **answer} for answer in answers))

    return script


def test_version() -> None:
    result = _neff("--version")
    assert (result.returncode, result.stdout) == (exitcodes.OK, f"neff {__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("dance",),
        ("prefetch",),
        ("prefetch", "MODULE_without_flags"),
        ("prefetch", "../../etc/passwd"),
        ("prefetch", f"2.20/{KEYS[0]}"),
        ("flush", "--timeout", "-1"),
        ("flush", "--timeout", "nan"),
        ("flush", "--timeout", "soon"),
        ("status", "--socket"),
    ],
)
def test_usage_errors(arguments: tuple[str, ...]) -> None:
    result = _neff(*arguments)
    assert result.returncode == exitcodes.USAGE
    assert "neff" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [("status", "--bogus"), ("run", "--bogus", "--", "true"), ("du", "--bogus")])
def test_an_option_that_a_command_does_not_know_is_told_with_its_usage(arguments: tuple[str, ...]) -> None:
    result = _neff(*arguments)
    assert result.returncode == exitcodes.USAGE
    assert result.stderr.startswith(f"usage: neff {arguments[0]} [")
    assert f"neff {arguments[0]}: error: unrecognized arguments: --bogus" in result.stderr


def test_a_wrong_name_is_told_what_names_look_like() -> None:
    expected = "expected MODULE_<hlo>+<flags>, or neuronxcc-<version>/ before it"
    assert expected in _neff("prefetch", "MODULE_without_flags").stderr


@pytest.mark.parametrize("arguments", [(), ("flush",)])
def test_help_tells_the_exit_codes(arguments: tuple[str, ...]) -> None:
    codes = "0 done, 1 failed or parked, 2 wrong use, 3 not found, 4 no daemon or Hub, 5 still waiting, "
    codes += "6 refused: login, repo or rights, 7 a remote lacks modules, 130 interrupted"
    assert f"Exit codes: {codes}" in " ".join(_neff(*arguments, "--help").stdout.split())


@pytest.mark.parametrize("arguments", [("status",), ("prefetch", KEYS[0]), ("flush",)])
def test_no_daemon_says_where_and_what_to_do(arguments: tuple[str, ...], socket_path: Path) -> None:
    result = _neff(*arguments, "--socket", str(socket_path))
    assert result.returncode == exitcodes.UNREACHABLE
    expected = f"no daemon answers at {socket_path} (No such file or directory)"
    assert result.stderr == f"neff: {expected}: is it running?\n"


def test_the_socket_may_be_named_before_the_command_after_it_and_in_the_environment(socket_path: Path) -> None:
    with ScriptedDaemon(socket_path, _answer({"status": STATUS, "done": True})):
        assert _neff("--socket", str(socket_path), "status", socket="/nowhere").returncode == exitcodes.OK
        assert _neff("status", "--socket", str(socket_path), socket="/nowhere").returncode == exitcodes.OK
        assert _neff("status", socket=socket_path).returncode == exitcodes.OK
        assert _neff("--socket", "/nowhere", "status", socket=socket_path).returncode == exitcodes.UNREACHABLE


def test_status_for_a_person(socket_path: Path) -> None:
    with ScriptedDaemon(socket_path, _answer({"status": STATUS, "done": True})):
        result = _neff("status", socket=socket_path)
    assert (result.stdout, result.stderr, result.returncode) == (STATUS_TEXT, "", exitcodes.OK)


def test_status_has_no_gauges_among_what_was_counted(socket_path: Path) -> None:
    counters = {"neffd_tasks": 14, "neffd_cache_bytes": {"cache_dir=/a": 5e6}, "neffd_scans": {"why=start": 1}}
    with ScriptedDaemon(socket_path, _answer({"status": {"counters": counters}, "done": True})):
        shown = _neff("status", socket=socket_path).stdout
    assert shown.splitlines()[-1] == "  neffd_scans{why=start}  1"


def test_status_for_a_program(socket_path: Path) -> None:
    with ScriptedDaemon(socket_path, _answer({"status": STATUS, "done": True})):
        result = _neff("status", "--json", socket=socket_path)
    assert json.loads(result.stdout) == {**STATUS, "command": "status"}


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"cache_dirs": [{}], "remotes": [{}], "fetching": [{}], "counters": {"a": {}}},
        {"cache_dirs": 5, "remotes": "x", "fetching": [1, None], "counters": [], "uptime_s": "long"},
        {"remotes": [{"catalog": 5, "journal": [], "name": "\x1b[31mred\n"}], "counters": {"\x1b[2J": 1, "b": True}},
        {"cache_dirs": [{"entries": None, "problems": {}}], "uptime_s": -1, "version": None},
    ],
)
def test_status_with_missing_or_odd_fields(socket_path: Path, status: Any) -> None:
    with ScriptedDaemon(socket_path, _answer({"status": status, "done": True})):
        result = _neff("status", socket=socket_path)
    assert (result.returncode, result.stderr) == (exitcodes.OK, "")
    assert "\x1b" not in result.stdout


def test_status_into_a_closed_pipe_is_quiet(socket_path: Path) -> None:
    with ScriptedDaemon(socket_path, _answer({"status": STATUS, "done": True})):
        reading, writing = os.pipe()
        os.close(reading)
        result = subprocess.run(
            _command("status", "--socket", str(socket_path)), stdout=writing, stderr=subprocess.PIPE, check=False
        )
        os.close(writing)
    assert (result.returncode, result.stderr) == (exitcodes.FAILED, b"")


@pytest.mark.parametrize("arguments", [("completion", "bash"), ("du", "--cache_dir", ".", "--json")])
def test_a_full_disk_behind_the_output_is_one_line(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(_command(*arguments), stdout=full, stderr=subprocess.PIPE, check=False)
    assert (result.returncode, result.stderr) == (exitcodes.FAILED, b"neff: No space left on device\n")


def test_what_the_terminal_cannot_show_is_escaped(socket_path: Path) -> None:
    status = {"cache_dirs": [{"path": "/caché", "entries": {}}]}
    with ScriptedDaemon(socket_path, _answer({"status": status, "done": True})):
        command = _command("status", "--socket", str(socket_path))
        shown = subprocess.run(
            command, capture_output=True, check=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}
        )
    assert b"/cach\\xe9" in shown.stdout


@pytest.mark.parametrize("json_option", [(), ("--json",)])
@pytest.mark.parametrize("arguments", [("du", "--cache_dir", "."), ("prefetch", KEYS[0])])
def test_a_closed_output_is_no_failure(
    socket_path: Path, arguments: tuple[str, ...], json_option: tuple[str, ...]
) -> None:
    command = _command("--socket", str(socket_path), *arguments, *json_option)
    with ScriptedDaemon(socket_path, _answer({"name": KEYS[0], "state": "ready"}, {"done": True})):
        result = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], stderr=subprocess.PIPE, check=False)
    assert (result.returncode, result.stderr) == (exitcodes.OK, b"")


@pytest.mark.parametrize(
    ("wait", "states", "code"),
    [
        (False, ["ready", "fetching", "ready"], exitcodes.OK),
        (False, ["ready", "not-on-remotes", "fetching"], exitcodes.NOT_FOUND),
        (True, ["ready", "ready", "ready"], exitcodes.OK),
        (True, ["ready", "not-on-remotes", "ambiguous-namespace"], exitcodes.NOT_FOUND),
        (True, ["ready", "not-on-remotes", "disk"], exitcodes.FAILED),
        (True, ["ready", "fetching", "ready"], exitcodes.PENDING),
        (True, ["ready", "", "ready"], exitcodes.FAILED),
    ],
)
def test_prefetch(socket_path: Path, wait: bool, states: list[str], code: int) -> None:
    names = [KEYS[0], f"{NAMESPACE}/{KEYS[1]}", KEYS[2]]
    answers: list[Message] = [
        {"name": name, **({"state": state} if state in ("ready", "fetching") else {"state": "absent", "reason": state})}
        for name, state in zip(names, states, strict=True)
        if state
    ]
    requests: list[Message] = []
    with ScriptedDaemon(socket_path, _answer(*answers, {"done": True}, requests=requests)):
        result = _neff("prefetch", *(["--wait"] if wait else []), *names, names[0], socket=socket_path)
    assert result.returncode == code
    assert (requests[0]["names"], requests[0]["wait"]) == (names, wait)
    assert len(result.stdout.splitlines()) == len(answers)


def test_prefetch_shows_changes_and_not_every_step(socket_path: Path) -> None:
    fetching: Message = {"name": KEYS[0], "state": "fetching", "done_bytes": 1}
    ready: Message = {"name": KEYS[0], "state": "ready", "source": "team"}
    with ScriptedDaemon(socket_path, _answer(fetching, fetching, fetching, ready, {"done": True})):
        result = _neff("prefetch", "--wait", KEYS[0], socket=socket_path)
    assert result.stdout == f"fetching  {KEYS[0]}\nready     {KEYS[0]} from team\n"


def test_prefetch_for_a_program(socket_path: Path) -> None:
    ready: Message = {"name": KEYS[0], "state": "ready", "source": "team"}
    absent: Message = {"name": KEYS[1], "state": "absent", "reason": "not-on-remotes"}
    with ScriptedDaemon(socket_path, _answer(ready, absent, {"done": True})):
        result = _neff("prefetch", "--wait", "--json", *KEYS, socket=socket_path)
    assert result.returncode == exitcodes.FAILED
    document = json.loads(result.stdout)
    assert (document["schema"], document["command"]) == (1, "prefetch")
    assert document["modules"] == [
        {"name": KEYS[0], "state": "ready", "source": "team", "reason": None},
        {"name": KEYS[1], "state": "absent", "source": None, "reason": "not-on-remotes"},
        {"name": KEYS[2], "state": None, "source": None, "reason": None},
    ]


def test_many_keys_go_in_several_requests(socket_path: Path) -> None:
    requests: list[Message] = []
    keys = [f"MODULE_{number}+e30acd3a" for number in range(1200)]
    with ScriptedDaemon(socket_path, _answer({"done": True}, requests=requests)):
        _neff("prefetch", *keys, socket=socket_path)
    assert [len(request["names"]) for request in requests] == [500, 500, 200]


@pytest.mark.parametrize(
    ("last", "code", "text"),
    [
        ({"pending": 0, "parked": []}, exitcodes.OK, "nothing waits for upload\n"),
        (
            {"pending": 0, "parked": [{"name": "n/M", "remote": "team", "reason": "public-repo"}]},
            exitcodes.FAILED,
            "parked    n/M for team: public-repo\nnothing waits for upload, 1 parked\n",
        ),
        (
            {
                "pending": 0,
                "parked": [{"name": "n/M", "remote": "team", "reason": "public-repo"}],
                "parked_count": 2000,
            },
            exitcodes.FAILED,
            "parked    n/M for team: public-repo\nparked    and 1999 more\nnothing waits for upload, 2000 parked\n",
        ),
    ],
)
def test_flush(socket_path: Path, last: Message, code: int, text: str) -> None:
    requests: list[Message] = []
    with ScriptedDaemon(socket_path, _answer({"pending": 3}, {**last, "done": True}, requests=requests)):
        result = _neff("flush", "--timeout", "5", socket=socket_path)
    assert (result.returncode, result.stdout) == (code, text)
    assert requests == [{"id": 1, "op": "flush", "timeout_s": 5.0}]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (
            {
                "remotes": [
                    {"name": "hubshared", "reason": "no-directory", "journal": {"waiting": 2}},
                    {"name": "team", "reason": None, "journal": {"waiting": 1}},
                    {"name": "public", "reason": "no-network", "journal": {"waiting": 0}},
                ]
            },
            "2 still waiting for hubshared: no-directory; the daemon goes on\n"
            "1 still waiting for team; the daemon goes on\n",
        ),
        ({"remotes": [{}]}, "3 still waiting for upload; the daemon goes on\n"),
        (None, "3 still waiting for upload; the daemon goes on\n"),
    ],
)
def test_flush_tells_where_and_why_something_still_waits(socket_path: Path, status: Any, text: str) -> None:
    with ScriptedDaemon(socket_path, _answer({"pending": 3, "status": status, "done": True})):
        result = _neff("flush", socket=socket_path)
    assert (result.returncode, result.stdout, result.stderr) == (exitcodes.PENDING, text, "")


@pytest.mark.parametrize(("pending", "code"), [(2, exitcodes.PENDING), (0, exitcodes.FAILED)])
def test_flush_for_a_program(socket_path: Path, pending: int, code: int) -> None:
    parked = [{"name": "n/M", "remote": "team", "reason": "public-repo"}]
    remote = {"name": "team", "reason": "server-error", "journal": {"waiting": 2}}
    answer: Message = {"pending": pending, "parked": parked, "status": {"remotes": [remote]}, "done": True}
    with ScriptedDaemon(socket_path, _answer(answer)):
        result = _neff("flush", "--json", socket=socket_path)
    waiting = [{"remote": "team", "entries": 2, "reason": "server-error"}] if pending else []
    assert result.returncode == code
    document = {"schema": 1, "command": "flush", "pending": pending, "waiting": waiting, "parked": parked}
    assert json.loads(result.stdout) == {**document, "parked_count": 1}


def test_what_the_daemon_refuses_is_told(socket_path: Path) -> None:
    refusal: Message = {"error": {"code": "too-many", "message": "at most 1000 names"}}
    with ScriptedDaemon(socket_path, _answer(refusal)):
        result = _neff("prefetch", KEYS[0], socket=socket_path)
    assert result.returncode == exitcodes.FAILED
    assert result.stderr == "neff: the daemon refused: at most 1000 names (too-many)\n"


@pytest.mark.parametrize("arguments", [("status",), ("flush",)])
def test_an_answer_without_content_or_a_daemon_that_dies(socket_path: Path, arguments: tuple[str, ...]) -> None:
    def dies(peer: Peer) -> None:
        peer.greet()
        peer.read()

    with ScriptedDaemon(socket_path, _answer({"done": True}), dies):
        for _ in range(2):
            result = _neff(*arguments, socket=socket_path)
            assert result.returncode == exitcodes.UNREACHABLE
            assert result.stderr.startswith("neff: the ")


def test_ctrl_c_ends_a_wait_without_a_traceback(socket_path: Path) -> None:
    processes: list[subprocess.Popen[str]] = []

    def interrupt(peer: Peer) -> None:
        peer.greet()
        peer.read()
        processes[0].send_signal(signal.SIGINT)
        peer.hang()

    with ScriptedDaemon(socket_path, interrupt):
        processes.append(
            subprocess.Popen(
                _command("prefetch", "--wait", KEYS[0], "--socket", str(socket_path)),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        output, errors = processes[0].communicate(timeout=20)
    assert (processes[0].returncode, output, errors) == (exitcodes.INTERRUPTED, "", "")
