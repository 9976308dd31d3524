"""`neff run` on a terminal, with a shell's job control around it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.processes import children, command_line
from tests.harness.waiting import eventually
from tests.unit.client.running import TIMEOUT_S, environment, neff_run, python

REPORT = """
import os, signal, sys
assert all(map(os.isatty, range(3)))
assert os.tcgetpgrp(0) == os.getpgrp() == os.getpgid(os.getppid())
def count(number, frame):
    os.write(1, b"<%s>\\n" % signal.Signals(number).name.encode())
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), count)
os.write(1, b"<ready>\\n")
for line in sys.stdin:
    os.write(1, b"<line %s>\\n" % line.strip().encode())
    if line.strip() == "end":
        sys.exit(6)
"""


class Terminal:
    """A process that leads a session on a terminal of its own."""

    def __init__(self, words: list[str | bytes]) -> None:
        self._master, slave = os.openpty()
        self.shown = b""
        self.process = subprocess.Popen(
            words,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env=environment(PS1="$ "),
        )
        os.close(slave)
        os.set_blocking(self._master, False)

    def type(self, text: bytes) -> None:
        os.write(self._master, text)

    def until(self, text: bytes) -> None:
        """Until the terminal shows `text`; what came up to then is over."""
        eventually(lambda: text in self._read(), f"{text!r} in {self.shown!r}")
        self.shown = self.shown.partition(text)[2]

    def hang_up(self) -> None:
        os.close(self._master)
        self._master = -1

    def close(self) -> None:
        if self._master >= 0:
            self.hang_up()
        self.process.kill()
        self.process.wait(TIMEOUT_S)

    def _read(self) -> bytes:
        with contextlib.suppress(OSError):  # nothing there, or the other side is closed
            self.shown += os.read(self._master, 65_536)
        return self.shown


@pytest.fixture
def terminal() -> Iterator[list[Terminal]]:
    made: list[Terminal] = []
    yield made
    for one in made:
        one.close()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_ctrl_c_reaches_the_command_once_and_not_us(terminal: list[Terminal]) -> None:
    term = Terminal(neff_run(*python(REPORT, "SIGINT", "SIGQUIT")))
    terminal.append(term)
    term.until(b"<ready>")
    for key, name in ((b"\x03", b"<SIGINT>"), (b"\x1c", b"<SIGQUIT>")):
        term.type(key)
        term.until(name)
    term.type(b"end\n")
    term.until(b"<line end>")
    assert term.process.wait(TIMEOUT_S) == 6
    assert b"<SIG" not in term.shown


def test_ctrl_c_that_ends_the_command_ends_us_likewise(terminal: list[Terminal]) -> None:
    term = Terminal(neff_run("sh", "-c", "echo '<ready>'; read x"))
    terminal.append(term)
    term.until(b"<ready>")
    term.type(b"\x03")
    assert term.process.wait(TIMEOUT_S) == -signal.SIGINT


def test_ctrl_z_stops_both_and_fg_goes_on(terminal: list[Terminal]) -> None:
    term = Terminal(["bash", "--norc", "--noprofile", "-i"])
    terminal.append(term)
    term.until(b"$ ")
    words = " ".join(shell_quoted(word) for word in neff_run(*python(REPORT)))
    term.type(b"stty -echo\n" + words.encode() + b"; echo '<'code $?'>'\n")
    term.until(b"<ready>")
    ours = eventually(lambda: job_of(term.process.pid), "the job")
    (command,) = children(ours)
    for _ in range(2):
        term.type(b"\x1a")
        term.until(b"Stopped")
        eventually(lambda: state(ours) == state(command) == "T", "both stopped")
        term.type(b"fg\n")
        eventually(lambda: state(ours) != "T" and state(command) != "T", "both running")
    term.type(b"end\n")
    term.until(b"<line end>")
    term.type(b"exit\n")
    assert term.process.wait(TIMEOUT_S) in (0, 6)


def test_in_the_background_reading_stops_it_until_fg(terminal: list[Terminal]) -> None:
    term = Terminal(["bash", "--norc", "--noprofile", "-i"])
    terminal.append(term)
    term.until(b"$ ")
    words = " ".join(shell_quoted(word) for word in neff_run("sh", "-c", "read x; echo '<got' $x'>'"))
    term.type(b"stty -echo\n" + words.encode() + b" &\n")
    ours = eventually(lambda: job_of(term.process.pid), "the job")
    eventually(lambda: state(ours) == "T", "the stop")
    term.type(b"fg\n")
    eventually(lambda: state(ours) != "T", "running")
    term.type(b"a line\n")
    term.until(b"<got a line>")


def test_a_lost_terminal_ends_the_command_of_a_session_leader(terminal: list[Terminal], tmp_path: Path) -> None:
    said = tmp_path / "said"
    script = f"trap 'echo hup > {said}; exit' HUP; echo '<ready>'; while :; do read x || sleep 0.05; done"
    term = Terminal(neff_run("sh", "-c", script))
    terminal.append(term)
    term.until(b"<ready>")
    term.hang_up()
    term.process.wait(TIMEOUT_S)
    assert said.read_text() == "hup\n"


def job_of(shell_pid: int) -> int:
    """The `neff run` that the shell has started, or 0."""
    return next((pid for pid in children(shell_pid) if "run" in command_line(pid)), 0)


def shell_quoted(word: str | bytes) -> str:
    return "'" + os.fsdecode(word).replace("'", "'\\''") + "'"
