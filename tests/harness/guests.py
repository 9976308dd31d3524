"""A place with hosts and trainers that are different users, or in containers: what each leaves ends with the place."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.harness.daemon import PROJECT, Daemon, python_path
from tests.harness.rooms import CONTAINER, ROOTLESS, Mount, Room, bind, hide
from tests.neuron.env import FLAGS_OF_OUR_OWN, STACK_DIR, standin_env
from tests.unit.store.as_user import User

_END_S = 40.0
# For what starts `python3` by its name.
_PYTHON_FOLDERS = [str(Path(sys.executable).parent), str(Path(os.path.realpath(sys.executable)).parent)]


class Place:
    """A folder that every user can pass through (pytest's own are for one alone), and all that runs in it.

    Attributes:
        shared: a directory that is a read-write remote of every host.
        work: a folder for everybody, at the same path in containers.
        inside: what a container sees in this folder besides `work`.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="neffd place "))
        self.path.chmod(0o755)
        self.shared, self.work, self.inside = (self.path / name for name in ("shared", "work", "inside"))
        for folder in (self.shared, self.work):
            folder.mkdir()
            folder.chmod(0o1777)
        self._hosts: list[Daemon] = []
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._started:
            kill(child)
            child.communicate()
        for host in self._hosts:
            host.kill()
        shutil.rmtree(self.path)

    def host(
        self,
        name: str,
        room: Room | None = None,
        command: tuple[str, ...] = ("-m", "neffd"),
        **config: Any,
    ) -> Daemon:
        """A daemon that is not started yet; its home belongs to the room's user, the cache directory is there.

        Args:
            room: where and as whom it runs; as the tests themselves if none is given.
            command: arguments of its Python.
            config: further configuration.
        """
        home = self.path / name
        socket = home / "run" / "neffd.sock"
        remotes = [{"name": "shared", "url": f"file://{self.shared}", "mode": "read-write", "poll_s": 0.5}]
        if room is not None:
            command = (*room.prefix()[1:], sys.executable, *command)
        daemon = Daemon(home, remotes, {"socket": str(socket), **config}, command=command)
        daemon.socket = socket
        for folder in (home, socket.parent, daemon.cache):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
            if room is not None:
                os.chown(folder, room.user.uid, room.user.gid)
        self._hosts.append(daemon)
        return daemon

    def container(self, host: Daemon, user: User, *more: Mount, rootless: bool = False) -> Room:
        """A room that sees of this place only `work`, and the host's socket folder and cache under other paths.

        Args:
            more: further mounts.
            rootless: the user is root of a user namespace.
        """
        mounts = [
            hide(self.path),
            bind(self.work),
            bind(host.socket.parent, self.inside / "run"),
            bind(host.cache, self.inside / "cache"),
            *more,
        ]
        return Room(user, mounts, CONTAINER + (ROOTLESS if rootless else ()))

    def environ(self, host: Daemon, room: Room, **switches: Any) -> dict[str, str]:
        """A trainer's environment in a room: the stand-in stack, where socket and cache are, no way to neffd's code."""
        is_inside = any(mount.target == str(self.inside / "cache") for mount in room.mounts)
        work_dir = self.work / f"work of {room.user.uid}"
        environ = standin_env(
            self.inside / "cache" if is_inside else host.cache,
            flags=FLAGS_OF_OUR_OWN,
            **{"compile_log": self.work / f"compiles of {room.user.uid}", "work_dir": work_dir} | switches,
        )
        environ["NEFFD_SOCKET"] = str(self.inside / "run" / host.socket.name if is_inside else host.socket)
        environ["PATH"] = os.pathsep.join([environ["PATH"].split(os.pathsep)[0], *_PYTHON_FOLDERS, os.defpath])
        environ["PYTHONPATH"] = os.pathsep.join([str(STACK_DIR), str(PROJECT)])
        environ["TMPDIR"] = str(self.work)
        return environ

    def spawn(self, room: Room, environ: Mapping[str, str], *command: str) -> subprocess.Popen[str]:
        """Start a command in a room, in a process group of its own."""
        child = subprocess.Popen(
            (*room.prefix(), *command),
            env=environ,
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(child)
        return child

    def trainer(
        self,
        host: Daemon,
        room: Room,
        graphs: str = "adam_update",
        *,
        hooked: bool = True,
        environ: Mapping[str, str] | None = None,
        **switches: Any,
    ) -> subprocess.Popen[str]:
        """Start a trainer, with the hook unless told otherwise; `environ` has further variables."""
        variables = {**self.environ(host, room, **switches), **(environ or {})}
        variables["PYTHONPATH"] += f"{os.pathsep}{python_path()}"
        words = [sys.executable, "-m", "tests.neuron.trainer", "--graphs", graphs, *(["--install-neff"] * hooked)]
        return self.spawn(room, variables, *words)

    def compilers(self) -> int:
        """How many compilers were started, by whomever."""
        return sum(len(log.read_text().splitlines()) for log in self.work.glob("compiles of *"))


def steps(child: subprocess.Popen[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """What a trainer that has to end well did, and what the hook said on its stderr."""
    output, errors = child.communicate(timeout=_END_S)
    assert child.returncode == 0, errors
    said = [line for line in errors.splitlines() if "neff: " in line]
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")], said


def kill(child: subprocess.Popen[str]) -> None:
    """kill -9 for a command and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def problems(host: Daemon) -> list[dict[str, str]]:
    """What the daemon reports of its cache directory."""
    found: list[dict[str, str]] = host.status()["cache_dirs"][0]["problems"]
    return found


def compiling(host: Daemon, **wanted: Any) -> dict[str, Any]:
    """The first lock that the status shows with the wanted facts, empty if there is none."""
    rows: list[dict[str, Any]] = host.status()["compiling"]
    return next((row for row in rows if wanted.items() <= row.items()), {})
