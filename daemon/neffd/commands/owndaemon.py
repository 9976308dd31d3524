"""A daemon of the command's own, for a host where none runs: the same code, for as long as it is needed."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neff.commands.session import CONNECT_S, WAITS
from neff.connection import connect
from neff.errors import DaemonError
from neff.greeting import of_command
from neffd.commands.errors import CommandError
from neffd.store import fsops

_START_S = 30.0
_STOP_S = 20.0
_LOOK_S = 0.05
_PR_SET_PDEATHSIG = 1
_ALREADY_RUNNING = "[already-running]"


def remote_name(repo_id: str) -> str:
    """The journal goes by it: what waits for one repo must never reach another."""
    return f"repo-{hashlib.sha256(repo_id.encode()).hexdigest()[:16]}"


@contextlib.contextmanager
def running(root: Path, remote: dict[str, Any], *, for_trainers: bool = False) -> Iterator[str]:
    """Serve `root` with one remote until the block ends; gives the path of the socket.

    What could not be sent stays in a journal of its own, from which the next one for this directory goes on.

    Args:
        for_trainers: trainers ask it, and wait for each other's compiles.

    Raises:
        CommandError: it does not start, or entries of another daemon wait beside the directory.
    """
    state = _state_dir(root)
    _check_outbox(root, state)
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _ended_by_signals(), tempfile.TemporaryDirectory(prefix="neff-") as folder:
        socket = Path(folder) / "neffd.sock"
        config = Path(folder) / "neffd.yaml"
        settings = _config(root, remote, state, socket) | {"locks": {"wait": for_trainers}}
        config.write_text(json.dumps(settings))  # JSON is YAML
        process = _start(config, socket, state / "log")
        try:
            yield str(socket)
        finally:
            _stop(process)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have the usual signals end this process by an exception, so that the daemon is ended as well."""

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    usual = (signal.SIGTERM, signal.SIGHUP)
    heeded = [number for number in usual if signal.getsignal(number) is not signal.SIG_IGN]  # nohup holds
    before = {number: signal.signal(number, end) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(config: Path, socket: Path, log: Path) -> subprocess.Popen[bytes]:
    """The daemon, ready. One that was left behind by a killed command takes some seconds to end."""
    deadline = time.monotonic() + _START_S
    environ = {name: value for name, value in os.environ.items() if not name.startswith("NEFFD_")}
    command = [sys.executable, "-m", "neffd", "--config", str(config)]
    die_with_parent = functools.partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, signal.SIGTERM)
    while True:
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environ,
                start_new_session=True,  # Ctrl-C is for us, or for the command that we run
                preexec_fn=die_with_parent,  # also where we are killed
            )
        try:
            _wait_until_ready(process, socket, log, deadline)
            return process
        except _NotYet:
            time.sleep(1)
        except BaseException:
            _stop(process)
            raise


class _NotYet(Exception):
    """Another one for the same directory has not ended yet."""


def _config(root: Path, remote: dict[str, Any], state: Path, socket: Path) -> dict[str, Any]:
    return {
        "cache_dirs": [str(root)],
        "state_dir": str(state),
        "socket": str(socket),
        "http": None,
        "remotes": [{"poll_s": 5, **remote}],
        # Who runs the command asks for just this.
        "upload": {"existing": "always", "quiet_s": 1, "max_delay_s": 5},
    }


def _state_dir(root: Path) -> Path:
    home = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(home) / "neffd" / "synchronize" / hashlib.sha256(os.fsencode(root)).hexdigest()[:16]


def _check_outbox(root: Path, state: Path) -> None:
    """A daemon that is not its owner would take what is pinned there for left-overs."""
    if (state / "neffd.db").exists():
        return
    for staging in (root.with_name(f"{root.name}.neffd"), root / ".cache" / "huggingface" / "neffd"):
        outbox = staging / "outbox"
        with contextlib.suppress(PermissionError):  # another user's, which is left alone
            if fsops.is_folder(outbox) and any(outbox.iterdir()):
                raise CommandError(
                    f"entries of a daemon that does not run wait in {outbox}", "start it: systemctl start neffd"
                )


def _wait_until_ready(process: subprocess.Popen[bytes], socket: Path, log: Path, deadline: float) -> None:
    while time.monotonic() < deadline and process.poll() is None:
        if _answers(socket):
            return
        time.sleep(_LOOK_S)
    lines = log.read_text(errors="replace").splitlines()
    if time.monotonic() < deadline and any(_ALREADY_RUNNING in line for line in lines):
        raise _NotYet
    raise CommandError(f"neffd did not start: {lines[-1] if lines else 'it said nothing'}", f"see {log}")


def _answers(socket: Path) -> bool:
    try:
        connect([str(socket)], of_command(), WAITS, CONNECT_S).close()
    except DaemonError:
        return False
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
