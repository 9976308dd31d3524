"""The real process under a service manager: when it says that it is ready, alive and about to end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import pytest
import yaml

from tests.harness.daemon import RawClient, python_path
from tests.harness.waiting import eventually

_ARRIVES_S = 20.0
_MESSAGE_BYTES = 4096


class Manager:
    """What systemd is to the daemon: folders and a notification socket, named in the environment."""

    def __init__(self, home: Path, *, watchdog_s: float = 0.0, environ: Mapping[str, str] | None = None) -> None:
        self._home = home
        self._watchdog_s = watchdog_s
        self._environ = environ or {}
        self.client_socket = home / "run" / "neffd.sock"
        for folder in ("run", "state"):
            (home / folder).mkdir()

    def __enter__(self) -> Manager:
        self._notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = str(self._home / "notify")
        self._notifications.bind(address)
        config = self._home / "neffd.yaml"
        config.write_text(yaml.safe_dump({"cache_dirs": [str(self._home / "cache")], "remotes": [], "http": None}))
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("NEFFD_", "NEURON_"))},
            "PYTHONPATH": python_path(),
            "NOTIFY_SOCKET": address,
            "STATE_DIRECTORY": str(self._home / "state"),
            "RUNTIME_DIRECTORY": str(self._home / "run"),
        }
        if self._watchdog_s:
            environ["WATCHDOG_USEC"] = str(round(self._watchdog_s * 1e6))
        command = [sys.executable, "-m", "neffd", "--config", str(config)]
        with (self._home / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**environ, **self._environ}
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._notifications.close()

    @property
    def log(self) -> str:
        return (self._home / "log").read_text()

    def next(self, timeout_s: float = _ARRIVES_S) -> str:
        """The next notification; raises TimeoutError if there is none in time."""
        self._notifications.settimeout(timeout_s)
        return self._notifications.recv(_MESSAGE_BYTES).decode()

    def wait_for(self, wanted: str) -> list[str]:
        """What came up to `wanted`, without it."""
        seen: list[str] = []
        try:
            while (message := self.next()) != wanted:
                seen.append(message)
        except TimeoutError:
            raise AssertionError(f"no {wanted}, only {seen}; the log:\n{self.log}") from None
        return seen

    def queued(self) -> Iterator[str]:
        """What has arrived and was not looked at."""
        self._notifications.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                yield self._notifications.recv(_MESSAGE_BYTES).decode()

    def is_stopped(self) -> bool:
        """Whether SIGSTOP has taken effect."""
        state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "T"


def test_ready_is_said_once_the_socket_answers_and_not_before(tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        assert manager.wait_for("READY=1") == []
        with contextlib.closing(RawClient(manager.client_socket)) as client:
            assert client.ask("status")[-1]["status"]["state"] == "running"


def test_a_daemon_that_cannot_start_is_never_ready(tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(manager.client_socket))
        other.listen()
        with manager:
            assert manager.process.wait(_ARRIVES_S) == 1
            assert "READY=1" not in list(manager.queued())
            assert "already-running" in manager.log


def test_a_bad_configuration_has_the_exit_code_after_which_systemd_does_not_start_again(tmp_path: Path) -> None:
    with Manager(tmp_path, environ={"NEFFD_SCAN_S": "often"}) as manager:
        assert manager.process.wait(_ARRIVES_S) == 2
        assert list(manager.queued()) == []


def test_sigterm_ends_it_with_success_after_it_said_so(tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        manager.wait_for("READY=1")
        manager.process.send_signal(signal.SIGTERM)
        assert manager.wait_for("STOPPING=1") == []
        assert manager.process.wait(_ARRIVES_S) == 0
        assert list(manager.queued()) == []
        assert not manager.client_socket.exists()


def test_signs_of_life_come_within_the_time_that_is_asked_for(tmp_path: Path) -> None:
    watchdog_s = 8.0  # half of it is left to a machine that is slow
    with Manager(tmp_path, watchdog_s=watchdog_s) as manager:
        manager.wait_for("WATCHDOG=1")
        began_at = time.monotonic()
        manager.wait_for("WATCHDOG=1")
        assert time.monotonic() - began_at < watchdog_s


def test_a_daemon_that_stands_still_shows_no_sign_of_life(tmp_path: Path) -> None:
    with Manager(tmp_path, watchdog_s=0.2) as manager:
        manager.wait_for("WATCHDOG=1")
        manager.process.send_signal(signal.SIGSTOP)
        eventually(manager.is_stopped, "the process stopped")
        list(manager.queued())
        with pytest.raises(TimeoutError):
            manager.next(timeout_s=1.0)
        manager.process.send_signal(signal.SIGCONT)
        manager.wait_for("WATCHDOG=1")


@pytest.mark.parametrize("environ", [{}, {"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"}])
def test_without_a_watchdog_of_its_own_it_shows_none(tmp_path: Path, environ: Mapping[str, str]) -> None:
    with Manager(tmp_path, environ=environ) as manager:
        manager.wait_for("READY=1")
        with pytest.raises(TimeoutError):
            manager.next(timeout_s=0.5)
