"""The official Python client in a process of its own, with caches of its own."""

from __future__ import annotations

import base64
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROJECT = Path(__file__).resolve().parents[2]
_CALL_S = 60.0
_QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_XET_TELEMETRY_ENABLED": "0",
    "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "3",
    "HF_XET_CLIENT_RETRY_BASE_DELAY": "200ms",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


@dataclass
class ClientError(Exception):
    """What the client raised in its process."""

    error: str
    bases: list[str]
    message: str
    status: int | None
    failures: Any

    def __str__(self) -> str:
        return f"{self.error} ({self.status}): {self.message}"


@dataclass(frozen=True)
class Call:
    """One call of an `HfApi` method; `token` replaces the client's own, False means none."""

    method: str
    arguments: Mapping[str, Any]
    token: str | bool | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"method": self.method, "arguments": self.arguments, "token": self.token}


def content(data: bytes) -> dict[str, str]:
    """Mark bytes for the way to the client."""
    return {"$bytes": base64.b64encode(data).decode()}


def file_object(data: bytes) -> dict[str, Any]:
    """Mark bytes that the client shall get as an open file."""
    return {"$file_object": content(data)}


def add(path: str, data: bytes) -> dict[str, Any]:
    return {"$add": path, "content": content(data)}


def delete(path: str) -> dict[str, str]:
    return {"$delete": path}


def pair(first: Any, second: Any) -> dict[str, Any]:
    """Mark a tuple, which JSON does not know."""
    return {"$tuple": [first, second]}


class PythonClient:
    """A worker process with an `HfApi`.

    Args:
        endpoint: URL of the Hub.
        home: folder for HF_HOME and the Xet cache.
        environment: further variables, e.g. HF_HUB_DISABLE_XET.
    """

    def __init__(self, endpoint: str, token: str, home: Path, **environment: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        own = {"HF_ENDPOINT": endpoint, "HF_TOKEN": token, "HF_HOME": str(home), "HF_XET_CACHE": str(home / "xet")}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        self._log = home / "client.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.interop_hub.worker"],
                cwd=_PROJECT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**inherited, **_QUIET, **own, "PYTHONPATH": str(_PROJECT), **environment},
            )

    def wait_ready(self) -> None:
        """Return once the client is imported."""
        self._receive()

    def send(self, *calls: Call) -> None:
        """Start calls that run at the same time; `receive` gives their outcomes."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([call.as_dict() for call in calls]).encode() + b"\n")
        self._process.stdin.flush()

    def receive(self) -> list[Any]:
        """Return the results of the calls sent last; errors stand in the list as `ClientError`."""
        return [ClientError(**outcome) if "error" in outcome else outcome["result"] for outcome in self._receive()]

    def parallel(self, calls: Sequence[Call]) -> list[Any]:
        self.send(*calls)
        return self.receive()

    def call(self, method: str, *, as_token: str | bool | None = None, **arguments: Any) -> Any:
        """Call a method of `HfApi` and return what it returned, as JSON values.

        Raises:
            ClientError: the client raised.
        """
        [outcome] = self.parallel([Call(method, arguments, as_token)])
        if isinstance(outcome, ClientError):
            raise outcome
        return outcome

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            line = self._process.stdout.readline() if selector.select(_CALL_S) else b""
        if not line:
            raise RuntimeError(f"no answer from the client: {self._log.read_text(errors='replace')}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> PythonClient:
        self.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
