"""The daemon's side of the worker process: started when needed, killed when nothing moves, let go when idle."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neffd.remotes.base import RemoteUnavailable
from neffd.remotes.hub.budget import retry_after_s

log = logging.getLogger(__name__)

# The Hub itself takes up to a minute for a large commit.
STALL_S = 90.0
IDLE_S = 120.0
_MAX_LINE_BYTES = 1 << 20
_END_S = 1.0


class HubCallFailed(Exception):
    """huggingface_hub raised; `status` is the Hub's answer if there was one.

    Args:
        error: as `worker.describe` tells it.
    """

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['kind']} {error['status'] or ''} {error['message']}".strip())
        self.kind: str = error["kind"]
        self.status: int | None = error["status"]
        self.code: str = error["code"]
        self.retry_after_s = retry_after_s(error["rate_limit"], error["retry_after"])


class HubWorker:
    """One worker process at a time; calls wait for each other.

    Args:
        home: folder for huggingface_hub's own caches.
        endpoint: base URL of the Hub; huggingface_hub reads it once, when it is imported.
    """

    def __init__(self, home: Path, endpoint: str, *, stall_s: float = STALL_S, idle_s: float = IDLE_S) -> None:
        self._home = home
        self._endpoint = endpoint
        self._stall_s = stall_s
        self._idle_s = idle_s
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._retire: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        """The process that runs now, if one does."""
        return None if self._process is None else self._process.pid

    async def call(self, op: str, on_progress: Callable[[], None] = lambda: None, **fields: Any) -> dict[str, Any]:
        """One operation of the worker.

        Raises HubCallFailed where huggingface_hub raised, RemoteUnavailable (`stalled`, `worker-died`) where it did not
        come to an end. Cancelling kills the process: what it was doing may or may not have happened.
        """
        async with self._turn:
            if self._retire is not None:
                self._retire.cancel()
            process = await self._running()
            try:
                return await self._exchange(process, {"op": op, "endpoint": self._endpoint, **fields}, on_progress)
            except HubCallFailed:
                raise
            except BaseException:
                await self._kill()
                raise
            finally:
                self._retire = asyncio.get_running_loop().call_later(self._idle_s, self._let_go)

    async def close(self) -> None:
        """End the process, at once."""
        if self._retire is not None:
            self._retire.cancel()
        await self._kill()

    async def _exchange(
        self, process: asyncio.subprocess.Process, request: dict[str, Any], on_progress: Callable[[], None]
    ) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            await process.stdin.drain()
            while True:
                line = await asyncio.wait_for(process.stdout.readline(), self._stall_s)
                if not line:
                    raise RemoteUnavailable("worker-died", f"exit code {await process.wait()}")
                answer = json.loads(line)
                if "result" in answer:
                    result: dict[str, Any] = answer["result"]
                    return result
                if "error" in answer:
                    raise HubCallFailed(answer["error"])
                on_progress()
        except asyncio.TimeoutError:
            raise RemoteUnavailable("stalled", f"nothing moved for {self._stall_s:g} s") from None
        except (ConnectionError, ValueError) as error:
            raise RemoteUnavailable("worker-died", type(error).__name__) from None

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "neffd.remotes.hub.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=self._environment(),
            limit=_MAX_LINE_BYTES,
            start_new_session=True,  # a Ctrl-C meant for the daemon must not cut a commit short
        )
        return self._process

    def _environment(self) -> dict[str, str]:
        environ = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "NOTIFY_SOCKET")}
        return environ | {
            "HF_HOME": str(self._home),
            "HF_XET_CACHE": str(self._home / "xet"),
            "HF_ENDPOINT": self._endpoint,
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_XET_TELEMETRY_ENABLED": "0",
            # A refused connection fails after less than a second instead of a minute and a half; we retry ourselves.
            "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "3",
            "HF_XET_CLIENT_RETRY_BASE_DELAY": "200ms",
            # Nine requests of ten, for content that hardly ever repeats.
            "HF_XET_DEDUPLICATION_GLOBAL_DEDUP_QUERY_ENABLED": "0",
        }

    def _let_go(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), _END_S)
