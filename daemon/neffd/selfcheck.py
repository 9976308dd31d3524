"""The daemon looks after itself: what hangs is said, with the stack of where it hangs; better an end than half a life.

Parts give signs of life, and a thread of its own looks for them: the event loop, which may itself be what hangs,
cannot. Events and scans of a cache directory: `publish/lookout.py` and `Collector.busy_since`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Executor

from neffd.metrics import Metrics
from neffd.publish.collect import Collector
from neffd.pulse import Finding, Limits, Piecework, Pulse, What
from neffd.serve.status import Problems
from neffd.store.database import Database
from neffd.tasks import Tasks

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
LOOP, DATABASE, WORKERS = "event-loop", "database", "workers"
# The service manager ends a daemon whose loop stands still after 30 s, and could not say where.
LIMITS = {LOOP: Limits(10.0, 25.0), DATABASE: Limits(30.0, 120.0), WORKERS: Limits(60.0, 300.0)}
SCAN_LIMIT_S = 120.0
_ASK_EVERY_S = 5.0
_EXIT_CODE = 1
# Whoever reads our log may hang, too.
_LAST_WORDS_S = 2.0
_REASONS = {LOOP: "event-loop-stuck", DATABASE: "database-stuck", WORKERS: "workers-stuck"}
_SCAN_STUCK = "scan-stuck"
_THREADS = {LOOP: "MainThread", DATABASE: "neffd-db", WORKERS: "neffd-worker"}


class SelfCheck:
    """Args:
    database, workers: asked now and then whether they still answer.
    collectors: pairs of a collector and the problems of its cache directory.
    problems: those of the daemon itself.
    clock: monotonic seconds.
    """

    def __init__(
        self,
        database: Database,
        workers: Executor,
        metrics: Metrics,
        collectors: Callable[[], Iterable[tuple[Collector, Problems]]],
        problems: Problems,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._workers = workers
        self._metrics = metrics
        self._collectors = collectors
        self._problems = problems
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._pulse = Pulse(clock, LOOK_EVERY_S)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="neffd-watchdog", daemon=True)
        self._timer: asyncio.TimerHandle | None = None

    def start(self, tasks: Tasks) -> None:
        """Begin to look; on the event loop."""
        self._pulse.expect(LOOP, LIMITS[LOOP])
        self._beat()
        self._ask(tasks, DATABASE, self._ask_database)
        self._ask(tasks, WORKERS, self._ask_workers)
        tasks.start(self._look_at_scans(), name="check-scans")
        self._thread.start()

    def stopping(self) -> None:
        """From now on only the event loop has to live."""
        self._pulse.forget(DATABASE)
        self._pulse.forget(WORKERS)

    def stop(self) -> None:
        """End; harmless if not started."""
        self._is_over.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._thread.is_alive():
            self._thread.join(_LAST_WORDS_S)

    def _beat(self) -> None:
        self._pulse.beat(LOOP)
        self._timer = self._loop.call_later(LOOK_EVERY_S, self._beat)

    def _ask(self, tasks: Tasks, part: str, ask: Callable[[], Awaitable[object]]) -> None:
        async def ask_again() -> None:
            while True:
                await ask()
                self._pulse.beat(part)
                await asyncio.sleep(min(_ASK_EVERY_S, LIMITS[part].report_s / 4))

        self._pulse.expect(part, LIMITS[part])
        tasks.start(ask_again(), name=f"check-{part}")

    async def _ask_database(self) -> None:
        with contextlib.suppress(sqlite3.Error, OSError):  # a full disk, say: that is an answer
            await self._database.run(lambda connection: connection.execute("SELECT 1").fetchone())

    async def _ask_workers(self) -> None:
        await self._loop.run_in_executor(self._workers, int)

    async def _look_at_scans(self) -> None:
        look_every_s = min(_ASK_EVERY_S, SCAN_LIMIT_S / 4)
        work: dict[Collector, Piecework] = {}
        while True:
            await asyncio.sleep(look_every_s)
            for collector, problems in self._collectors():
                if collector not in work:
                    work[collector] = Piecework(SCAN_LIMIT_S, self._clock, look_every_s)
                finding = work[collector].look(collector.busy_since)
                if finding is not None and finding.what is What.SILENT:
                    self._metrics.stalls.labels("scan").inc()
                    problems.note(_SCAN_STUCK, f"the file system has not answered for {SCAN_LIMIT_S:g} s", "")
                    log.warning("a scan does not go on:\n%s", stacks(_THREADS[WORKERS]))
                elif finding is not None:
                    problems.over(_SCAN_STUCK)

    def _watch(self) -> None:
        while not self._is_over.wait(LOOK_EVERY_S):
            for finding in self._pulse.look():
                self._tell(finding)

    def _tell(self, finding: Finding) -> None:
        part, silent_s = finding.part, finding.silent_s
        where = stacks(_THREADS[part])
        if finding.what is What.TOO_LONG:
            # Said by another thread: what hangs may hold the lock of the log.
            _said(logging.CRITICAL, "ending: no sign of life of the %s for %.0f s:\n%s", part, silent_s, where)
            os._exit(_EXIT_CODE)
        if finding.what is What.SILENT:
            self._metrics.stalls.labels(part).inc()
            _said(logging.ERROR, "no sign of life of the %s for %.0f s:\n%s", part, silent_s, where)
            self._on_loop(self._problems.note, _REASONS[part], f"no sign of life for {silent_s:.0f} s", "")
        else:
            _said(logging.WARNING, "the %s goes on, after %.0f s", part, silent_s)
            self._on_loop(self._problems.over, _REASONS[part])

    def _on_loop(self, call: Callable[..., object], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended; so have we
            self._loop.call_soon_threadsafe(call, *args)


def stacks(thread_name: str) -> str:
    """Where the threads of that name, or whose names begin with it, are now."""
    frames = sys._current_frames()
    shown = [
        f"{thread.name}:\n" + "".join(traceback.format_stack(frames[thread.ident]))
        for thread in threading.enumerate()
        if thread.name.startswith(thread_name) and thread.ident in frames
    ]
    return "".join(shown)


def _said(level: int, text: str, *args: object) -> None:
    """Log from a thread of its own, waiting for it only so long."""
    saying = threading.Thread(target=log.log, args=(level, text, *args), name="neffd-last-words", daemon=True)
    saying.start()
    saying.join(_LAST_WORDS_S)
