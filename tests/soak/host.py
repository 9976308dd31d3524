"""One host of the soak: a daemon that is started again whenever it ends, as a service manager would."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from neffd.layouts import xla
from tests.harness.daemon import PROJECT, Daemon
from tests.soak.disk import SmallDisk
from tests.soak.wallclock import WallClock

_RESTART_S = 0.5
_LOOK_S = 0.05


class Host(Daemon):
    """A daemon under a supervisor, with its cache directory, and perhaps a disk and a clock of its own.

    Args:
        leak_mb: how much it is made to leak, in an hour.

    Attributes:
        restarts: how often it was started after the first time.
        own_ends: exit codes of ends that nobody here asked for; a start that a full disk refuses is none.
        ready_s: how long each start took.
    """

    def __init__(
        self,
        home: Path,
        remote: Mapping[str, Any],
        overrides: Mapping[str, Any],
        disk: SmallDisk | None = None,
        clock: WallClock | None = None,
        leak_mb: float = 0.0,
    ) -> None:
        environ = {**_of_the_unit(), **(clock.environ if clock else {})}
        command = ("-m", "neffd")
        if leak_mb:
            environ |= {"SOAK_LEAK_MB": str(leak_mb)}
            command = ("-m", "tests.soak.leaking")
        super().__init__(home, [dict(remote)], overrides, environ, command)
        self.name = home.name
        self.disk, self.clock = disk, clock
        if disk is not None:
            self.cache = disk.folder / "cache"
            self.config |= {"cache_dirs": [str(self.cache)], "state_dir": str(disk.folder / "state")}
        self.restarts = 0
        self.own_ends: list[int] = []
        self.ready_s: list[float] = []
        self.is_ready = threading.Event()
        self.is_full = False
        self._ending = threading.Event()
        self._asked: set[int] = set()
        self._keeper = threading.Thread(target=self._keep_up, name=f"keep-{home.name}", daemon=True)

    def begin(self) -> None:
        """Start the daemon and keep it up from now on."""
        self._keeper.start()

    def end(self) -> int:
        """SIGTERM, and no more starts; returns the exit code. Raises TimeoutExpired if it does not end."""
        self._ending.set()
        self.send(signal.SIGCONT)
        return self.stop()

    def abandon(self) -> None:
        """kill -9, and no more starts."""
        self._ending.set()
        self.kill()

    def send(self, number: signal.Signals) -> bool:
        """Send a signal to the daemon that runs now; false if there is none."""
        process = self._process
        if process is None or process.poll() is not None:
            return False
        if number in (signal.SIGKILL, signal.SIGTERM):
            self._asked.add(process.pid)
        process.send_signal(number)
        return True

    def stall(self, seconds: float) -> None:
        """Stop the daemon that runs now for a while."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGSTOP)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.send_signal(signal.SIGCONT)

    def question(self, op: str, **fields: Any) -> list[dict[str, Any]] | None:
        """`ask` of a daemon that may be away: None if it is, or goes."""
        with contextlib.suppress(OSError, EOFError, ValueError):
            return self.ask(op, **fields)
        return None

    def locks(self) -> list[Path]:
        """Every lock in the cache directory, whatever comes and goes meanwhile."""
        walk = os.walk(self.cache)
        return [Path(folder, file) for folder, _, files in walk for file in files if file.endswith(xla.LOCK_SUFFIX)]

    def _keep_up(self) -> None:
        while not self._ending.is_set():
            self._one_life()
            self.is_ready.clear()
            if not self._ending.wait(_RESTART_S):
                self.restarts += 1

    def _one_life(self) -> None:
        began = time.monotonic()
        with self.launched() as ready:
            process = self._process
            assert process is not None
            if _hears_ready(ready, lambda: process.poll() is None):
                self.ready_s.append(time.monotonic() - began)
                self.is_ready.set()
            code = process.wait()
        was_refused = self.is_full and not self.is_ready.is_set()
        if process.pid not in self._asked and not self._ending.is_set() and not was_refused:
            self.own_ends.append(code)


def _hears_ready(ready: socket.socket, is_up: Callable[[], bool]) -> bool:
    ready.settimeout(_LOOK_S)
    while is_up():
        with contextlib.suppress(TimeoutError):
            return ready.recv(64).startswith(b"READY")
    return False


def _of_the_unit() -> dict[str, str]:
    """The environment in which systemd starts a daemon."""
    lines = (PROJECT / "systemd" / "neffd.service").read_text().splitlines()
    settings = [line.removeprefix("Environment=") for line in lines if line.startswith("Environment=")]
    return {name: value for name, _, value in (setting.partition("=") for setting in settings)}
