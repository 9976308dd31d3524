"""What belongs to `neff run` and what to the command; what is said when it does not start."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neff import exitcodes
from neff.commands.run import split
from neff.launch.environment import RunFolder, additions, kept, make_run_folder, python_path
from tests.unit.client.running import SITE, environment, finished, neff_run
from tests.unit.client.scripted import Peer, ScriptedDaemon

WORDS = st.lists(st.sampled_from(["--", "-x", "--quiet", "--socket", "run", "", "-", "a b", "--socket=/x"]), max_size=6)


@given(WORDS)
def test_after_two_dashes_everything_is_the_command(words: list[str]) -> None:
    ours = ["--quiet", "--socket", "--", "--wait-daemon=3"]
    assert split([*ours, "--", *words]) == (ours, words)


@given(WORDS)
def test_the_first_word_that_is_no_option_begins_the_command(words: list[str]) -> None:
    assert split(["--socket", "/s", "--quiet", "python", *words]) == (["--socket", "/s", "--quiet"], ["python", *words])
    assert split(["-", *words]) == ([], ["-", *words])


def test_without_a_command_there_is_none() -> None:
    assert split([]) == ([], [])
    assert split(["--quiet", "--"]) == (["--quiet"], [])
    assert split(["--socket"]) == (["--socket"], [])


@pytest.mark.parametrize(
    "arguments", [(), ("--",), ("--quiet",), ("--dance", "true"), ("--qui", "true"), ("--wait-daemon", "soon", "true")]
)
def test_usage_errors(arguments: tuple[str, ...]) -> None:
    done = finished(neff_run(*arguments))
    assert done.returncode == exitcodes.USAGE
    assert b"usage: neff " in done.stderr


def test_help_shows_an_example_and_the_exit_codes() -> None:
    text = " ".join(finished(neff_run("--help")).stdout.decode().split())
    assert "neff run -- torchrun --nproc_per_node 32 train.py" in text
    assert "126 it cannot be executed, 127 it was not found" in text


@pytest.mark.parametrize("switch", [{}, {"NEFF_DISABLE": "1"}])
def test_a_command_that_cannot_start_ends_as_in_a_shell(tmp_path: Path, switch: dict[str, str]) -> None:
    plain = tmp_path / "plain"
    plain.write_text("exit 7\n")
    missing, refused = str(tmp_path / "missing"), str(tmp_path)
    cases = {missing: exitcodes.COMMAND_NOT_FOUND, str(plain): 126, refused: 126, "no-such-command": 127, "": 127}
    for command, code in cases.items():
        done = finished(neff_run("--", command), environment(**switch))
        assert (done.returncode, done.stdout) == (code, b"")
        assert done.stderr.startswith(f"neff: {command}: ".encode())
        assert done.stderr.count(b"\n") == 1
    plain.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    for command in (str(plain), "plain"):  # a script without #! is the shell's
        assert finished(neff_run("--", command), environment(PATH=path, **switch)).returncode == 7


def test_pythonpath_has_ours_first_and_theirs_untouched() -> None:
    assert python_path("") == str(SITE)
    assert python_path("/a::b:") == f"{SITE}:/a::b:"
    assert python_path(f"{SITE}:/a") == f"{SITE}:/a"
    assert python_path("/a", "/with:colon/site") == "/a"


def test_what_is_added_to_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert additions({}, None, None) == {"PYTHONPATH": str(SITE)}
    assert additions({}, RunFolder("/f", False), "sock") == {
        "PYTHONPATH": str(SITE),
        "NEFF_RUN_DIR": "/f",
        "NEFFD_SOCKET": str(tmp_path / "sock"),
    }


def test_the_folder_of_a_run_is_private_and_goes_into_an_outer_runs(tmp_path: Path) -> None:
    runtime, outer = tmp_path / "runtime", tmp_path / "outer"
    for folder in (runtime, outer):
        folder.mkdir()
    made = make_run_folder({"XDG_RUNTIME_DIR": str(runtime)})
    assert made is not None
    assert (Path(made.path).parent, made.is_nested) == (runtime, False)
    assert Path(made.path).stat().st_mode & 0o777 == 0o700
    inner = make_run_folder({"XDG_RUNTIME_DIR": str(runtime), "NEFF_RUN_DIR": str(outer)})
    assert inner is not None
    assert (Path(inner.path).parent, inner.is_nested) == (outer, True)
    lost = make_run_folder({"XDG_RUNTIME_DIR": str(runtime), "NEFF_RUN_DIR": str(tmp_path / "gone")})
    assert lost is not None
    assert (Path(lost.path).parent, lost.is_nested) == (runtime, False)


def test_nothing_stays_of_the_folder_and_nothing_is_said_of_no_graphs(tmp_path: Path) -> None:
    shown = finished(neff_run("--", "sh", "-c", 'ls -d "$NEFF_RUN_DIR"'), environment(XDG_RUNTIME_DIR=str(tmp_path)))
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert shown.stdout.startswith(str(tmp_path).encode())
    assert list(tmp_path.iterdir()) == []


def test_the_summary_goes_where_it_was_asked_for_and_its_failure_costs_nothing(tmp_path: Path) -> None:
    done = finished(neff_run("--summary-json", "sum.json", "sh", "-c", "cd /; exit 3"), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (3, b"")
    numbers = json.loads((tmp_path / "sum.json").read_text())
    assert (numbers["schema"], numbers["exit_code"], numbers["graphs"]) == (1, 3, 0)
    done = finished(neff_run("--summary-json", tmp_path / "no" / "sum.json", "false"))
    assert done.returncode == 1
    assert done.stderr.startswith(b"neff: no summary in ")


def test_who_clears_temporary_files_passes_over_a_folder_that_is_kept(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # As systemd-tmpfiles does before it looks inside.
        with kept(RunFolder(str(tmp_path), False)), pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with kept(RunFolder(str(tmp_path), False)), kept(RunFolder(str(tmp_path / "gone"), False)), kept(None):
            pass  # nor is it waited for
    finally:
        os.close(fd)


def test_the_folder_of_a_run_is_kept_while_its_command_runs(tmp_path: Path) -> None:
    seen = 'ls -l "/proc/$PPID/fd" | grep -q "$NEFF_RUN_DIR\\$"'
    waits = f'until {seen}; do test -d "/proc/$PPID" || exit; sleep 0.01; done'
    done = finished(neff_run("--", "sh", "-c", waits), environment(XDG_RUNTIME_DIR=str(tmp_path)))
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_folder_that_was_removed_meanwhile_is_not_told_as_no_graphs(tmp_path: Path) -> None:
    summary = tmp_path / "sum.json"
    done = finished(neff_run("--summary-json", summary, "sh", "-c", 'rm -r "$NEFF_RUN_DIR"; exit 3'))
    assert (done.returncode, summary.exists()) == (3, False)
    assert done.stderr.startswith(b"neff: no summary in ")
    assert b"nothing could be counted" in done.stderr


def test_waiting_for_the_daemon(socket_path: Path) -> None:
    command = python_says_hello()
    done = finished(neff_run("--wait-daemon", "0.3", "--socket", socket_path, "--", *command))
    assert (done.returncode, done.stdout) == (0, b"hello")
    assert b"no daemon answers at" in done.stderr
    assert b"starting the command without it" in done.stderr

    def greets(peer: Peer) -> None:
        peer.greet()

    with ScriptedDaemon(socket_path, greets):
        done = finished(neff_run("--wait-daemon", "20", "--socket", socket_path, "--", *command))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello", b"")


def python_says_hello() -> list[str]:
    return [sys.executable, "-S", "-c", "print('hello', end='')"]
