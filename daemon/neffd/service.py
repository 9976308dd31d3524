"""The daemon as a whole: in which order it starts, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from neff.keys import ModuleName
from neff.protocol import Message
from neffd import __version__, cache_dirs, memory
from neffd.answers import Answers
from neffd.care.care import Care
from neffd.compiles.board import Place
from neffd.compiles.building import keeper_of
from neffd.compiles.keeper import Keeper
from neffd.compiles.usual import Usual
from neffd.config import Config
from neffd.config_defaults import DEFAULT
from neffd.config_values import Address
from neffd.errors import NeffdError
from neffd.fetch.flight import Answer
from neffd.fetch.refusals import Refusals
from neffd.limits import Limits
from neffd.managed import ManagedRoot
from neffd.metrics import Metrics
from neffd.notify import Notifier
from neffd.publish import receipt
from neffd.publish.journal import Journal
from neffd.remote_list import RemoteList
from neffd.resources import Resources
from neffd.runs.jobs import Jobs
from neffd.selfcheck import SelfCheck
from neffd.serve.listener import Listener
from neffd.serve.operations import standard
from neffd.serve.operations.compiles import of_keeper
from neffd.serve.operations.runs import of_runs
from neffd.serve.operations.why import Why
from neffd.serve.session import Operation, Session
from neffd.serve.status import Problems
from neffd.slots import Line
from neffd.store import sharing, workdirs
from neffd.store.database import Database
from neffd.store.index import Index
from neffd.store.root import CacheRoot
from neffd.store.staging import clean_staging, open_later, own_staging
from neffd.tasks import Tasks
from neffd.threads import whole_pool

if TYPE_CHECKING:
    from neffd.serve.http import HttpServer

log = logging.getLogger(__name__)

_WORKERS = 16
# For looking names up, and for what hangs without keeping anybody waiting.
_ODD_JOBS = 4
# SIGTERM to exit stays under 10 s: what is nearly done gets this long, then everything is cancelled.
_FINISH_S = 6.0
_CANCEL_S = 2.0
_LISTEN_AGAIN_S = 5.0
_DAY_S = 86_400.0
# Without one of these the daemon would go on half alive.
_VITAL_TASKS = ("collect-", "fetcher-", "space-", "database", "catalog-", "push-", "keeper", "check-")


class Service:
    """Builds the daemon from its configuration, runs it until told to stop.

    Args:
        database: gives the open database; may wait for it, and raise NeffdError.
    """

    def __init__(
        self, config: Config, database: Callable[[], Database], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._opened = database
        self._clock = clock
        self._stop = asyncio.Event()
        self._exit_code = 0
        self._metrics = Metrics()
        self._tasks = Tasks(self._on_crash)
        self._workers = whole_pool(_WORKERS, "neffd-worker")
        self._listener = Listener(config.socket, config.socket_mode, config.socket_group, _told_by(config))
        self._http: HttpServer | None = None
        self._staging_locks: list[int] = []
        self._roots: list[ManagedRoot] = []

    def stop(self) -> None:
        """Begin a graceful stop; safe to call more than once."""
        self._stop.set()

    async def run(self, notifier: Notifier | None = None) -> int:
        """Start, serve until `stop`, and return the exit code. Raises NeffdError if starting is not possible."""
        notifier = notifier or Notifier({})
        asyncio.get_running_loop().set_default_executor(whole_pool(_ODD_JOBS, "neffd-odd-jobs"))
        self._shared = self._resources()
        self._remotes = RemoteList(self._shared)
        self._jobs = self._make_jobs()
        self._selfcheck = self._make_selfcheck()
        try:
            self._selfcheck.start(self._tasks)
            await self._start()
            self._tasks.start(notifier.keep_alive(), name="watchdog")
            notifier.send("READY=1")
            _look_for_garbage()
            log.info("ready")
            await self._stop.wait()
        finally:
            notifier.send("STOPPING=1")
            self._selfcheck.stopping()
            await self._shut_down()
            self._selfcheck.stop()
        return self._exit_code

    def _resources(self) -> Resources:
        loop = asyncio.get_running_loop()

        def on_damage(error: BaseException) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended; so have we
                loop.call_soon_threadsafe(self._on_crash, "database", error)

        self._metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        config, database = self._config, self._opened()
        database.on_damage = on_damage
        index = Index(database)
        return Resources(
            config=config,
            clock=self._clock,
            metrics=self._metrics,
            tasks=self._tasks,
            workers=self._workers,
            line=Line(config.fetch.parallel, config.fetch.max_bytes_in_flight),
            database=database,
            index=index,
            journal=Journal(database, index),
            refusals=Refusals(database),
            problems=Problems("neffd"),
            usual=Usual(),
            limits=Limits(self._metrics, self._clock),
            care=Care(
                database, self._metrics, self._workers, self._tasks, lambda: self._remotes.catalogs(), self._clock
            ),
        )

    async def _start(self) -> None:
        roots = [await self._in_worker(CacheRoot, path) for path in self._config.cache_dirs]
        await self._tidy_up(roots)
        await self._shared.refusals.load()
        self._remotes.open_all()
        self._roots = [
            cache_dirs.manage(
                self._shared,
                self._remotes,
                root,
                others=lambda: roots,
                on_unlocked=self._unlocked,
                pinned=lambda: self._jobs.pinned(),
            )
            for root in roots
        ]
        self._keeper = self._make_keeper()
        await self._jobs.load()
        await self._remotes.find_orphans()
        answers = Answers(
            self._shared, self._roots, self._remotes, self._keeper, self._jobs, is_stopping=self._stop.is_set
        )
        await self._serve(answers)
        self._start_tasks()
        await self._serve_pages(answers)
        served, remotes = [str(root.path) for root in roots], [managed.remote.name for managed in self._remotes]
        told_by = _told_by(self._config)
        where = f"{self._config.socket} ({told_by})" if told_by else self._config.socket
        log.info("neffd %s serves %s on %s, remotes %s", __version__, served, where, remotes)

    def _make_selfcheck(self) -> SelfCheck:
        shared = self._shared
        return SelfCheck(
            shared.database,
            self._workers,
            self._metrics,
            collectors=lambda: [(managed.collector, managed.problems) for managed in self._roots],
            problems=shared.problems,
            clock=self._clock,
        )

    async def _tidy_up(self, roots: list[CacheRoot]) -> None:
        """Take the cache directories over from an earlier life, however that ended."""
        journal = self._shared.journal
        for lock in await self._in_worker(self._shared.index.clear_claims):
            log.info("removed our own left-over lock %s", lock)
        locks = [await self._in_worker(own_staging, root) for root in roots]
        self._staging_locks = [lock for lock in locks if lock is not None]
        recovered = await self._in_worker(receipt.recover, journal, roots)
        if recovered:
            log.warning("the journal was lost; noted again from the staging folders: %d entries", recovered)
        pinned = await self._in_worker(journal.folders_blocking)
        for root in roots:
            await self._in_worker(clean_staging, root, pinned)

    def _make_jobs(self) -> Jobs:
        shared, runs = self._shared, self._config.runs
        return Jobs(
            shared.database,
            shared.index,
            self._metrics,
            self._tasks,
            self._workers,
            places=lambda: self._roots,
            holds=self._remotes.holds,
            namespaces=self._remotes.namespaces,
            refresh=self._remotes.refresh,
            library=self._remotes.library,
            sources=self._remotes.sources,
            owners=self._remotes.owners,
            recent_s=self._config.store.keep_used_s,
            on_brought=lambda root, name, remote: shared.care.history.note(root, name, "prefetched", source=remote),
            on_expected=shared.usual.told,
            limits=shared.limits,
            prefetch=runs.prefetch,
            most_bytes=runs.max_prefetch_bytes,
            clock=self._clock,
        )

    def _make_keeper(self) -> Keeper:
        return keeper_of(
            self._roots,
            self._config.locks,
            self._shared.database,
            self._shared.index,
            self._tasks,
            self._metrics,
            self._workers,
            on_compiled=self._compiled,
            usual=self._shared.usual,
            on_lock_removed=lambda place, proof: self._shared.care.history.note(*place, "lock-removed", why=proof),
            clock=self._clock,
        )

    def _compiled(self, place: Place, pid: int, uid: int, seconds: float | None) -> None:
        self._shared.care.history.compiled(*place, pid, uid, seconds)
        self._jobs.compiled(*place, seconds, pid)

    async def _serve(self, answers: Answers) -> None:
        locks = of_keeper(self._keeper, waits=self._config.locks.wait)
        operations: dict[str, Operation] = {
            **standard(answers),
            "why": Why(self._shared.care, answers.limits),
            **locks,
            **of_runs(self._jobs),
        }
        await self._listener.start(lambda: Session(answers, operations, self._tell, self._greeted))

    def _greeted(self, session: Session, hello: Message) -> None:
        sharing.learn_groups(session.uid, session.pid)
        self._keeper.greeted(session.pid, session.program)
        self._jobs.greeted(session, hello)

    def _tell(self, session: Session, name: ModuleName, answer: Answer) -> Answer:
        self._jobs.told(session, name, answer)
        return self._shared.care.tell(session, name, answer)

    async def _serve_pages(self, answers: Answers) -> None:
        """Last, since loading aiohttp takes as long as all else: trainers are answered meanwhile."""
        if self._config.http is not None:
            pages = await self._in_worker(importlib.import_module, "neffd.serve.http")
            self._http = pages.HttpServer(answers, self._metrics)
            if not await self._listens(self._http, self._config.http):
                self._tasks.start(self._listen_later(self._http, self._config.http), name="pages")

    async def _listen_later(self, pages: HttpServer, where: Address) -> None:
        """Somebody else has the address: no reason to serve no trainer."""
        while not await self._listens(pages, where):  # noqa: ASYNC110, nobody tells when an address is free
            await asyncio.sleep(_LISTEN_AGAIN_S)

    async def _listens(self, pages: HttpServer, where: Address) -> bool:
        try:
            await pages.start(where.host, where.port)
        except NeffdError as error:
            self._shared.problems.note(error.reference, error.message, error.hint)
            return False
        for reference in ("http-in-use", "http-failed"):
            self._shared.problems.over(reference)
        return True

    def _start_tasks(self) -> None:
        tasks = self._tasks
        self._shared.care.start()
        tasks.start(self._keeper.run(), name="keeper")
        tasks.start(self._jobs.run(), name="jobs")
        for managed in self._roots:
            tasks.start(managed.collector.run(), name=f"collect-{managed.root.path}")
            tasks.start(managed.fetcher.run(), name=f"fetcher-{managed.root.path}")
            tasks.start(managed.space.run(), name=f"space-{managed.root.path}")
            if managed.root.closed is not None:
                tasks.start(self._open_later(managed), name=f"staging-{managed.root.path}")
        self._remotes.start()
        if any(managed.config.repo_id for managed in self._remotes):  # before the first question has to wait for it
            tasks.start(self._in_worker(importlib.import_module, "aiohttp"), name="load-aiohttp")
        days = self._config.store.clear_workdirs_days
        if days is not None:
            tasks.start(workdirs.run(days * _DAY_S, self._workers), name="workdirs")
        tasks.start(self._in_worker(self._shared.database.check_blocking), name="check")
        tasks.start(memory.keep_level(self._workers), name="memory")

    async def _open_later(self, managed: ManagedRoot) -> None:
        """Its disk was full or read-only at the start."""
        pinned = self._shared.journal.folders_blocking
        lock = await open_later(managed.root, managed.problems, pinned, self._in_worker)
        self._staging_locks += [] if lock is None else [lock]
        managed.collector.scan_soon("retry")

    async def _shut_down(self) -> None:
        """No more questions, finish what is nearly done, cancel the rest, close what is durable last."""
        self._listener.stop()
        for managed in self._roots:
            managed.fetcher.stopping = True
        self._remotes.hurry()
        deadline = self._clock() + _FINISH_S
        while self._clock() < deadline and self._is_busy():  # noqa: ASYNC110, the end is spread over many objects
            await asyncio.sleep(0.02)
        if self._http is not None:
            await self._http.stop()
        stuck = await self._tasks.stop(_CANCEL_S)
        if stuck:
            log.warning("did not end in time: %s", ", ".join(stuck))
        await self._remotes.close()
        await self._shared.care.stop()
        await self._jobs.write()
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._shared.database.close()
        for lock in self._staging_locks:
            os.close(lock)
        if self._roots:  # else the start itself failed, and says why
            left = self._remotes.waiting + sum(map(len, self._remotes.orphans.values()))
            log.info("stopped; %d deliveries wait in the journal for the next start", left)

    def _is_busy(self) -> bool:
        if self._remotes.is_busy or self._remotes.is_hopeful:
            return True
        return any(len(managed.fetcher.flights) for managed in self._roots)

    def _on_crash(self, name: str, error: BaseException) -> None:
        """Rather end with a clear message than go on half alive; systemd starts us again."""
        if not name.startswith(_VITAL_TASKS):
            return
        log.critical("stopping: %s failed: %s", name, error)
        self._exit_code = 1
        self._stop.set()

    def _unlocked(self, root: CacheRoot, name: ModuleName) -> None:
        for managed in self._roots:
            if managed.root is root:
                managed.fetcher.nudge()
        self._keeper.unlocked(Place(str(root.path), name))

    async def _in_worker(self, work: Callable[..., Any], *args: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work, *args)


def _told_by(config: Config) -> str:
    """Who says where the socket is, for what clients are told by may be meant for them alone; empty for nobody."""
    source = config.source("socket")
    return "" if source == DEFAULT else source


def _look_for_garbage() -> None:
    """From now on, in what was made since: what the start has loaded stays, and is much to look through."""
    gc.freeze()
    gc.enable()
