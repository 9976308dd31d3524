"""Background tasks that are kept, named and never fail in silence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")


class Wake:
    """What a task sleeps on that has something to do now and then.

    Not `asyncio.wait_for(event.wait(), …)`: up to Python 3.11 that loses a cancellation which comes together with the
    event, and the task then runs on while everybody waits for its end.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._is_wanted = False

    def set(self) -> None:
        """There is something to do."""
        self._is_wanted = True
        self._event.set()

    async def wait(self, at_most_s: float | None = None) -> bool:
        """Until there is something to do, or for `at_most_s`; which of the two. What was set before counts, once."""
        timer = None
        if at_most_s is not None:
            timer = asyncio.get_running_loop().call_later(max(0.0, at_most_s), self._event.set)
        try:
            await self._event.wait()
        finally:
            if timer is not None:
                timer.cancel()
        self._event.clear()
        is_wanted, self._is_wanted = self._is_wanted, False
        return is_wanted


class Tasks:
    """Owns tasks: starts them by name, reports the ones that crash, ends them together.

    Args:
        on_crash: called with the task's name and the exception when a task raises; default: log only.
    """

    def __init__(self, on_crash: Callable[[str, BaseException], None] | None = None) -> None:
        self._on_crash = on_crash
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T], *, name: str, watched: bool = False) -> asyncio.Task[T]:
        """Run `work` as a task called `name`; it is kept until it ends.

        `watched` says that the caller looks at the result, so that an exception is its business.
        """
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._forget_watched if watched else self._ended)
        return task

    def __len__(self) -> int:
        return len(self._running)

    async def join(self, timeout_s: float) -> None:
        """Wait until everything has ended by itself, for at most `timeout_s`; what has not is cancelled."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=timeout_s)
        await self.stop(timeout_s)

    async def stop(self, timeout_s: float) -> list[str]:
        """Cancel everything and wait; returns the names of tasks that did not end within `timeout_s`."""
        if not self._running:
            return []
        for task in self._running:
            task.cancel()
        _, stuck = await asyncio.wait(set(self._running), timeout=timeout_s)
        return sorted(task.get_name() for task in stuck)

    def _forget_watched(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen, even where the caller was cancelled meanwhile

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        log.error("task %s crashed", task.get_name(), exc_info=error)
        if self._on_crash is not None:
            self._on_crash(task.get_name(), error)
