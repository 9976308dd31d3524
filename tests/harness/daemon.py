"""A neffd daemon as a real process with its own cache directory, state and socket: one "host"."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from tests.harness.waiting import eventually

PROJECT = Path(__file__).resolve().parents[2]
_START_S = 20.0
_STOP_S = 15.0
_ANSWER_S = 20.0
# Quick enough for tests; every promise is the same at any speed.
_QUICK: dict[str, Any] = {
    "http": None,
    "upload": {"quiet_s": 0.2, "max_delay_s": 2, "settle_s": 0.3, "existing": "always"},
}


def python_path() -> str:
    """PYTHONPATH with which a child finds the packages and the tests as this process does."""
    return os.pathsep.join(str(PROJECT / part) for part in ("client", "daemon", "."))


class Daemon:
    """Starts and stops one daemon below `home`.

    Args:
        home: a folder of its own; holds `cache`, `state`, `log` and the socket.
        remotes: the `remotes` list of the configuration.
        overrides: further configuration, merged one level deep.
        environ: additions to the daemon's environment.
        command: what to run instead of `python -m neffd`.
    """

    def __init__(
        self,
        home: Path,
        remotes: list[dict[str, Any]] | None = None,
        overrides: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        command: tuple[str, ...] = ("-m", "neffd"),
    ) -> None:
        self.home = home
        self.cache = home / "cache"
        self.socket = home / "neffd.sock"
        self.log_path = home / "log"
        self.environ = dict(environ or {})
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        home.mkdir(parents=True, exist_ok=True)
        self.config: dict[str, Any] = copy.deepcopy(_QUICK) | {
            "cache_dirs": [str(self.cache)],
            "state_dir": str(home / "state"),
            "socket": str(self.socket),
            "remotes": remotes or [],
        }
        for key, value in (overrides or {}).items():
            merge = isinstance(value, dict) and isinstance(self.config.get(key), dict)
            self.config[key] = {**self.config[key], **value} if merge else value

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def start(self) -> None:
        """Start the process and return when it says that it is ready."""
        with self.launched() as ready:
            try:
                ready.recv(64)
            except TimeoutError:
                self.kill()
                raise AssertionError(f"not ready in {_START_S} s; its log:\n{self.log}") from None

    def start_as(self, command: tuple[str, ...], **environ: str) -> None:
        """Start with another command and additions to the environment, which stay for later starts."""
        self._command = command
        self.environ |= environ
        self.start()

    def start_and_die(self) -> int:
        """Start a process that is expected to end by itself; returns its exit code (negative: by that signal)."""
        with self.launched():
            assert self._process is not None
            return self._process.wait(timeout=_START_S)

    @contextlib.contextmanager
    def launched(self) -> Iterator[socket.socket]:
        """Start the process and wait for nothing; the socket is where it says that it is ready."""
        config = self.home / "neffd.yaml"
        config.write_text(yaml.safe_dump(self.config))
        notify = self.home / "notify"
        notify.unlink(missing_ok=True)
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("NEFFD_", "NEURON_"))}
        environ |= {"PYTHONPATH": python_path(), "NOTIFY_SOCKET": str(notify), **self.environ}
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, self.log_path.open("ab") as log:
            ready.bind(str(notify))
            notify.chmod(0o777)  # as systemd's own: the daemon may be another user
            ready.settimeout(_START_S)
            command = [sys.executable, *self._command, "--config", str(config)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ)
            yield ready

    def signal(self, number: int) -> None:
        """Send a signal to the daemon."""
        os.kill(self.pid, number)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=_STOP_S)

    def wait(self, timeout_s: float = _STOP_S) -> int:
        """Wait for a process that ends by itself; returns its exit code."""
        assert self._process is not None
        return self._process.wait(timeout=timeout_s)

    def kill(self) -> None:
        """kill -9, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def ask(self, op: str, **fields: Any) -> list[dict[str, Any]]:
        """One request through the client's own connection; returns all answers."""
        patience_s = _ANSWER_S + float(fields.get("timeout_s", 0))
        with contextlib.closing(RawClient(self.socket, timeout_s=patience_s)) as client:
            return client.ask(op, **fields)

    def status(self) -> dict[str, Any]:
        """The status document."""
        answer: dict[str, Any] = self.ask("status")[-1]["status"]
        return answer

    def counter(self, name: str, labels: str = "") -> float:
        """One counter of the status document, 0 where it was never touched."""
        found = self.status()["counters"].get(name, 0)
        return float(found.get(labels, 0) if isinstance(found, dict) else found)

    def journal_is_empty(self) -> bool:
        """Whether nothing waits for any remote."""
        return all(remote["journal"]["waiting"] == 0 for remote in self.status()["remotes"])

    def wait_until_pushed(self, entries: int, remote: str = "shared", timeout_s: float = 20.0) -> None:
        """Until `entries` deliveries were confirmed since the start, new or there before."""
        eventually(
            lambda: (
                self.counter("neffd_published_entries", f"remote={remote}")
                + self.counter("neffd_already_there", f"remote={remote}")
                >= entries
            ),
            f"{entries} entries on {remote}",
            timeout_s,
        )

    def http(self, path: str) -> tuple[int, str]:
        """GET from the status endpoint: status code and body."""
        with urllib.request.urlopen(f"http://{self.config['http']}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()


class RawClient:
    """A client that shows every line, for tests of the protocol itself."""

    def __init__(self, path: Path, hello: Mapping[str, Any] | None = None, timeout_s: float = 20.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout_s)
        self.socket.connect(str(path))
        self._lines = self.socket.makefile("rb")
        self.send({"hello": {"protocol": 1, "client": "test", **(hello or {})}})
        self.hello = self.receive()["hello"]

    def send(self, message: Mapping[str, Any]) -> None:
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        """The next line; raises EOFError at the end of the connection."""
        line = self._lines.readline()
        if not line:
            raise EOFError
        message: dict[str, Any] = json.loads(line)
        return message

    def ask(self, op: str, **fields: Any) -> list[dict[str, Any]]:
        """Send one request and collect its answers up to the last."""
        self.send({"id": 1, "op": op, **fields})
        answers: list[dict[str, Any]] = []
        while not answers or not (answers[-1].get("done") or "error" in answers[-1]):
            answers.append(self.receive())
        return answers

    def close(self) -> None:
        self._lines.close()
        self.socket.close()
