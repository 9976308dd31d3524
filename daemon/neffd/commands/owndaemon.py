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

from neff import exitcodes
from neff.commands.session import CONNECT_S, WAITS
from neff.connection import connect
from neff.errors import DaemonError
from neff.greeting import of_command
from neff.protocol import MAX_SOCKET_PATH_BYTES
from neffd import python
from neffd.commands.errors import CommandError
from neffd.commands.serving import mute
from neffd.store import fsops
from neffd.store.root import SERVED, is_served, staging_places

_START_S = 30.0
_STOP_S = 20.0
# Time for what a killed command left behind; who serves the directory for longer is somebody else.
_OTHERS_END_S = 5.0
_AGAIN_S = 1.0
_LOOK_S = 0.05
_PR_SET_PDEATHSIG = 1
_SOCKET = "neffd.sock"
_LOG = "log"
# How the last words of a daemon begin that cannot start, and the line of advice among them.
_SPOKEN, _HINT = "neffd: ", "hint: "
_ALREADY_RUNNING = "[already-running]"


def remote_name(repo_id: str) -> str:
    """The journal goes by it: what waits for one repo must never reach another."""
    return f"repo-{hashlib.sha256(repo_id.encode()).hexdigest()[:16]}"


@contextlib.contextmanager
def running(
    root: Path, remote: dict[str, Any], named_socket: str | None, *, for_trainers: bool = False
) -> Iterator[str]:
    """Serve `root` with one remote until the block ends; gives the path of the socket.

    What could not be sent stays in a journal of its own, from which the next one for this directory goes on.

    Args:
        named_socket: where the user says that the daemon of this host is; None if nowhere.
        for_trainers: trainers ask it, and wait for each other's compiles.

    Raises:
        CommandError: it does not start, another serves the directory, or entries of another wait beside it.
    """
    state = _made_state_dir(root)
    _check_others(root, state, named_socket)
    with _ended_by_signals(), _folder() as folder:
        socket = Path(folder) / _SOCKET
        config = Path(folder) / "neffd.yaml"
        settings = _config(root, remote, state, socket) | {"locks": {"wait": for_trainers}}
        config.write_text(json.dumps(settings))  # JSON is YAML
        process = _start(config, socket, state / _LOG, _Others(root, named_socket))
        try:
            yield str(socket)
        finally:
            _stop(process)


def _folder() -> tempfile.TemporaryDirectory[str]:
    """For the socket: where TMPDIR is too deep for one, as of jobs on many clusters, /tmp."""
    folder = tempfile.TemporaryDirectory(prefix="neff-")
    if len(os.fsencode(f"{folder.name}/{_SOCKET}")) <= MAX_SOCKET_PATH_BYTES:
        return folder
    folder.cleanup()
    return tempfile.TemporaryDirectory(prefix="neff-", dir="/tmp")


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


def _start(config: Path, socket: Path, log: Path, others: _Others) -> subprocess.Popen[bytes]:
    """The daemon, ready. One that was left behind by a killed command takes some seconds to end."""
    began = time.monotonic()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("NEFFD_")}
    command = [*python.command("neffd"), "--config", str(config)]
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
            if _is_ready(process, socket, began + _START_S):
                return process
        except BaseException:
            _stop(process)
            raise
        _stop(process)
        others.check(_lines(log), log, time.monotonic() - began)
        time.sleep(_AGAIN_S)


class _Others:
    """What keeps ours from starting: somebody else's daemon, or one that a command like this one has not ended yet."""

    def __init__(self, root: Path, named_socket: str | None) -> None:
        self._root = root
        self._named_socket = named_socket
        self._met: CommandError | None = None

    def check(self, said: list[str], log: Path, waited_s: float) -> None:
        """Return if it is worth another try; raises CommandError. `said`: the log of a daemon that did not start."""
        is_another = any(SERVED in line for line in said)
        if is_another:
            self._met = mute(self._root, self._named_socket)
        elif any(_ALREADY_RUNNING in line for line in said):
            text = f"another `neff synchronize` or `neff add` for {self._root} has not ended"
            self._met = CommandError(text, "wait for its end, or end it", exitcodes.PENDING)
        elif self._met is None or waited_s < _START_S:
            problem, hint = _complaint(said)
            raise CommandError(f"neffd did not start: {problem}", "; ".join([*hint, f"see {log}"]))
        if waited_s > (_OTHERS_END_S if is_another else _START_S):
            raise self._met


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


def _made_state_dir(root: Path) -> Path:
    """The folder of the journal, which can be written; raises CommandError."""
    mend = "XDG_STATE_HOME=DIR   (a directory of yours that can be written)"
    try:
        home = Path(os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser())
        state = home / "neffd" / "synchronize" / hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        (state / _LOG).touch()
    except RuntimeError:  # how Python says it
        raise CommandError("no place for the journal: this user has no home directory", mend) from None
    except OSError as error:
        raise CommandError(f"no place for the journal: {error.filename}: {error.strerror}", mend) from None
    return state


def _check_others(root: Path, state: Path, named_socket: str | None) -> None:
    """Who has the outbox if not a daemon of ours? One that is not its owner would take what is there for left-overs."""
    if (state / "neffd.db").exists():
        return
    if is_served(root, if_hidden=False):
        raise mute(root, named_socket)
    for staging in staging_places(root):
        outbox = staging / "outbox"
        with contextlib.suppress(PermissionError):  # another user's, which is left alone
            if fsops.is_folder(outbox) and any(outbox.iterdir()):
                raise CommandError(
                    f"entries of a daemon that does not run wait in {outbox}", "start it: systemctl start neffd"
                )


def _is_ready(process: subprocess.Popen[bytes], socket: Path, deadline: float) -> bool:
    while time.monotonic() < deadline and process.poll() is None:
        if _answers(socket):
            return True
        time.sleep(_LOOK_S)
    return False


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()


def _complaint(said: list[str]) -> tuple[str, list[str]]:
    """The problem with which a daemon ended, and its hint if it had one; else the last line of its log."""
    if not said:
        return "it said nothing", []
    starts = [number for number, line in enumerate(said) if line.startswith(_SPOKEN)]
    lines = [line.strip() for line in said[starts[-1] if starts else -1 :]]
    hints = [line.removeprefix(_HINT) for line in lines if line.startswith(_HINT)]
    return " ".join(line for line in lines if not line.startswith(_HINT)).removeprefix(_SPOKEN), hints


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
