"""The daemon's side of the worker process: started when needed, killed when nothing moves, let go when idle."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from neffd import python
from neffd.remotes.base import RemoteUnavailable
from neffd.remotes.hub.budget import retry_after_s
from neffd.tasks import Tasks

log = logging.getLogger(__name__)

# The Hub itself takes up to a minute for a large commit.
STALL_S = 90.0
IDLE_S = 120.0
_MAX_LINE_BYTES = 1 << 20
# A cold disk may take its time to bring huggingface_hub.
_START_S = 60.0
# So often it is said of one that starts that something moves.
_SIGN_S = 1.0
_END_S = 1.0
# A quarter of the share of those that somebody waits for; an upload under load still moves.
_NICE, _NICEST = 5, 19
_ABOUT_REPO = re.compile(r"/api/models/|/api/buckets/|/info/lfs/objects/batch$")
# Of the environment's HF_* only what chooses the way of the transfer: the rest would redirect, silence or log it. What
# the service's unit asks of its C library is for a process that lives for months.
_KEPT = re.compile(r"HF_XET_|HF_HUB_DISABLE_XET$")
_DROPPED = re.compile(r"HF_|HUGGING_FACE_|HUGGINGFACE_|NOTIFY_SOCKET$|WATCHDOG_|GLIBC_TUNABLES$")
# Entries are many small files: hf_xet's defaults (8 and 4) leave the line idle; its buffers may grow to 1.5 GB.
_TUNING = {
    "HF_XET_DATA_MAX_CONCURRENT_FILE_DOWNLOADS": "64",
    "HF_XET_CLIENT_AC_INITIAL_DOWNLOAD_CONCURRENCY": "32",
    "HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_SIZE": str(128 << 20),
    "HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_LIMIT": str(256 << 20),
    "HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_PERFILE_SIZE": str(16 << 20),
}
# `(index of the file in the request, bytes)` of each file that grew; empty where something else moved.
OnProgress = Callable[[Sequence[tuple[int, int]]], None]


class HubCallFailed(Exception):
    """huggingface_hub raised; `status` is the Hub's answer if there was one.

    Args:
        error: as `worker.describe` tells it.
    """

    def __init__(self, error: dict[str, Any]) -> None:
        self.kind = str(error.get("kind"))
        self.status: int | None = error.get("status")
        self.code = str(error.get("code") or "")
        self.message = str(error.get("message") or "")
        self.path = str(error.get("path") or "")
        self.retry_after_s = retry_after_s(str(error.get("rate_limit")), str(error.get("retry_after")))
        super().__init__(f"{self.kind} {self.status or ''} {self.message}".strip())

    @property
    def in_upload(self) -> bool:
        """Whether it was about contents on their way, not about the repo."""
        return bool(self.path) and not _ABOUT_REPO.search(self.path)


class HubWorker:
    """One worker process at a time; calls wait for each other.

    Args:
        home: folder for huggingface_hub's own caches.
        endpoint: base URL of the Hub; huggingface_hub reads it once, when it is imported.
        is_patient: nobody waits for its calls: what else runs on the host gets the processors first.
    """

    def __init__(
        self,
        home: Path,
        endpoint: str,
        *,
        stall_s: float = STALL_S,
        idle_s: float = IDLE_S,
        is_patient: bool = False,
    ) -> None:
        self._home = home
        self._endpoint = endpoint
        self._stall_s = stall_s
        self._idle_s = idle_s
        self._is_patient = is_patient
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._has_started = False
        self._retire: asyncio.TimerHandle | None = None
        self._tasks = Tasks()
        self._ending = Tasks()

    @property
    def pid(self) -> int | None:
        """The process that runs now, if one does."""
        return None if self._process is None else self._process.pid

    async def call(self, op: str, on_progress: OnProgress = lambda _: None, **fields: Any) -> dict[str, Any]:
        """One operation of the worker; `on_progress` is told of every sign of life.

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
                self._process = None
                await self._end(process)
                raise
            finally:
                self._retire = asyncio.get_running_loop().call_later(self._idle_s, self._let_go)

    async def close(self) -> None:
        """End the process, at once."""
        if self._retire is not None:
            self._retire.cancel()
        process, self._process = self._process, None
        await asyncio.gather(self._end(process), self._tasks.stop(_END_S))
        await self._ending.join(_END_S)

    async def _exchange(
        self, process: asyncio.subprocess.Process, request: dict[str, Any], on_progress: OnProgress
    ) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            await asyncio.wait_for(process.stdin.drain(), self._stall_s)
            while True:
                line = await self._line(process.stdout, on_progress)
                if not line:
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(process.wait(), _END_S)
                    raise RemoteUnavailable("worker-died", f"exit code {process.returncode}")
                answer = json.loads(line)
                if not isinstance(answer, dict):
                    raise ValueError("not an answer")
                if "result" in answer:
                    result: dict[str, Any] = answer["result"]
                    return result
                if "error" in answer:
                    raise HubCallFailed(answer["error"])
                on_progress([(int(file), int(count)) for file, count in answer.get("progress", ())])
        except asyncio.TimeoutError:
            raise RemoteUnavailable("stalled", f"nothing moved for {self._stall_s:g} s") from None
        except (ConnectionError, TypeError, ValueError) as error:
            raise RemoteUnavailable("worker-died", type(error).__name__) from None

    async def _line(self, output: asyncio.StreamReader, on_progress: OnProgress) -> bytes:
        """What it says next. Until its first word it starts, which is a sign of life, too."""
        if self._has_started:
            return await asyncio.wait_for(output.readline(), self._stall_s)
        telling = self._tasks.start(_tell_again_and_again(on_progress), name="hub-worker-starts")
        try:
            return await asyncio.wait_for(output.readline(), max(self._stall_s, _START_S))
        finally:
            telling.cancel()
            self._has_started = True

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        self._has_started = False
        try:
            self._process = await self._spawn()
        except OSError as error:
            raise RemoteUnavailable("worker-died", str(error)) from None
        return self._process

    async def _spawn(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *python.command("neffd.remotes.hub.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=self._environment(),
            limit=_MAX_LINE_BYTES,
            start_new_session=True,  # a Ctrl-C meant for the daemon must not cut a commit short
        )
        if self._is_patient:
            with contextlib.suppress(OSError):  # it may have ended
                ours = os.getpriority(os.PRIO_PROCESS, 0)
                os.setpriority(os.PRIO_PROCESS, process.pid, min(ours + _NICE, _NICEST))
        return process

    def _environment(self) -> dict[str, str]:
        environ = {name: value for name, value in os.environ.items() if _KEPT.match(name) or not _DROPPED.match(name)}
        return {**_TUNING, **environ} | {
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
        """Idle for long: end it gently. A call that comes now starts a new one."""
        process, self._process = self._process, None
        if process is not None:
            self._tasks.start(self._retired(process), name=f"hub-worker-{process.pid}")

    async def _retired(self, process: asyncio.subprocess.Process) -> None:
        """The worker ends when its input does."""
        assert process.stdin is not None
        process.stdin.close()
        try:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), _END_S)
        finally:
            await self._end(process)

    async def _end(self, process: asyncio.subprocess.Process | None) -> None:
        """Kill at once, and reap; who is cancelled meanwhile leaves the rest to `close`."""
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        ending = self._ending.start(_gone(process), name=f"hub-worker-{process.pid}-ends")
        await asyncio.wait([ending], timeout=_END_S)


async def _tell_again_and_again(on_progress: OnProgress) -> None:
    while True:
        await asyncio.sleep(_SIGN_S)
        on_progress([])


async def _gone(process: asyncio.subprocess.Process) -> None:
    """Until it is reaped and its pipes are closed."""
    assert process.stdout is not None
    await process.wait()
    with contextlib.suppress(RuntimeError):  # a call that is under way reads to the end
        while await process.stdout.read(_MAX_LINE_BYTES):
            pass
