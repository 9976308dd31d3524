"""A Hub in a process of its own, for tests whose client blocks, and its remote control."""

from __future__ import annotations

import base64
import json
import os
import selectors
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.hub.access import Role

_PROJECT = Path(__file__).resolve().parents[2]
_START_S = 20.0
_STOP_S = 10.0
_CALL_S = 60.0


class HubControl:
    """The operations of a running Hub, by its control API; same names as on `HubServer`.

    Args:
        endpoint: URL of the hub port.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def call(self, method: str, path: str, body: Any = None, *, timeout_s: float = _CALL_S) -> Any:
        """Call the control API.

        Args:
            path: below `/_control`.

        Raises:
            ValueError: the server refused; the text says why.
            OSError: the server cannot be reached.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.endpoint}/_control{path}", data=data, method=method)
        # No proxy from the environment may come between.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout_s) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(error.read().decode()) from error

    def token(self, user: str, role: Role = "write") -> str:
        return str(self.call("POST", "/tokens", {"user": user, "role": role})["token"])

    def revoke(self, token: str) -> None:
        self.call("DELETE", "/tokens", {"token": token})

    def set(self, **changes: Any) -> None:
        self.call("PATCH", "/settings", changes)

    def settings(self) -> dict[str, Any]:
        return dict(self.call("GET", "/state")["settings"])

    def add_fault(self, match: str, **options: Any) -> None:
        self.call("POST", "/faults", {"match": match, **options})

    def faults(self) -> list[dict[str, Any]]:
        return list(self.call("GET", "/faults"))

    def clear_faults(self) -> None:
        self.call("DELETE", "/faults")

    def counters(self) -> dict[str, Any]:
        return dict(self.call("GET", "/counters"))

    def reset_counters(self) -> None:
        self.call("DELETE", "/counters")

    def reset_limits(self) -> None:
        self.call("DELETE", "/limits")

    def recent_requests(self) -> list[str]:
        return list(self.call("GET", "/requests"))

    def wait_for_requests(self, route: str, count: int = 1, *, timeout_s: float = 10.0) -> None:
        """Return once the route has been asked `count` times; ValueError if that takes too long."""
        body = {"route": route, "count": count, "timeout_s": timeout_s}
        self.call("POST", "/wait", body, timeout_s=timeout_s + _CALL_S)

    def seed_files(self, repo_id: str, files: Mapping[str, bytes], **options: Any) -> str:
        answer = self.call("POST", "/repo-files", {"repo_id": repo_id, "files": _encode(files), **options})
        return str(answer["commit"])

    def head(self, repo_id: str, **options: str) -> str:
        return str(self._query("/repo-head", repo_id=repo_id, **options)["commit"])

    def commits(self, repo_id: str, **options: str) -> list[dict[str, Any]]:
        return list(self._query("/repo-commits", repo_id=repo_id, **options))

    def read_files(self, repo_id: str, **options: str) -> dict[str, bytes]:
        return _decode(self._query("/repo-files", repo_id=repo_id, **options))

    def seed_bucket(self, bucket_id: str, files: Mapping[str, bytes], **options: Any) -> None:
        self.call("POST", "/bucket-files", {"bucket_id": bucket_id, "files": _encode(files), **options})

    def read_bucket(self, bucket_id: str) -> dict[str, bytes]:
        return _decode(self._query("/bucket-files", bucket_id=bucket_id))

    def _query(self, path: str, **query: str) -> Any:
        return self.call("GET", f"{path}?{urllib.parse.urlencode(query)}")


def _encode(files: Mapping[str, bytes]) -> dict[str, str]:
    return {path: base64.b64encode(content).decode() for path, content in files.items()}


def _decode(files: Mapping[str, str]) -> dict[str, bytes]:
    return {path: base64.b64decode(content) for path, content in files.items()}


class HubProcess(HubControl):
    """A Hub as a child process; it ends with its parent.

    Example:
        with HubProcess(root, latency_s=0.04) as hub:
            client = HfApi(endpoint=hub.endpoint, token=hub.token("alice"))

    Args:
        root: where everything is stored.
        settings: names and values of `Settings`, in force at every start.
    """

    def __init__(self, root: Path, *, port: int = 0, cdn_port: int = 0, **settings: Any) -> None:
        super().__init__("")
        self.cdn = ""
        self.root = root
        self._ports = (port, cdn_port)
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise RuntimeError("the Hub is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it listens; a later start uses the same ports.

        Raises:
            RuntimeError: it ended, or was not ready in time; the text holds what it printed.
        """
        port, cdn_port = self._ports
        arguments = ["--child", "--root", str(self.root), "--port", str(port), "--cdn-port", str(cdn_port)]
        for name, value in self._settings.items():
            arguments += ["--set", f"{name}={json.dumps(value)}"]
        self.root.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.hub", *arguments],
                cwd=_PROJECT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                # Imports must come from this project, whatever the environment says.
                env={**os.environ, "PYTHONPATH": str(_PROJECT)},
            )
        ready = self._ready_line(self._process)
        self.endpoint, self.cdn = ready["endpoint"], ready["cdn"]
        self._ports = (_port(self.endpoint), _port(self.cdn))

    @property
    def log_path(self) -> Path:
        """What the server printed to stderr; empty unless something went wrong in it."""
        return self.root / "server.log"

    def _ready_line(self, process: subprocess.Popen[bytes]) -> dict[str, str]:
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if selector.select(_START_S) else b""
        if not line:
            self.kill()
            raise RuntimeError(f"the Hub did not start: {self.log_path.read_text(errors='replace')}")
        return dict(json.loads(line))

    def stop(self) -> None:
        """End the server in order; by force if it takes too long."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def _reap(self) -> None:
        assert self._process is not None
        # Waits for the end and closes both pipes.
        self._process.communicate()
        self._process = None

    def __enter__(self) -> HubProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _port(url: str) -> int:
    port = urllib.parse.urlsplit(url).port
    assert port is not None
    return port
