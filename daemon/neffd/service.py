"""The daemon as a whole: what is built from what, in which order it starts, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from neff.keys import ModuleName
from neff.protocol import Message
from neffd import __version__
from neffd.breaker import Breakers
from neffd.care.care import Care
from neffd.catalog.catalog import Catalog
from neffd.catalog.saved import SavedListings
from neffd.compiles.board import Place
from neffd.compiles.building import keeper_of
from neffd.config import Config, RemoteConfig
from neffd.fetch.fetcher import Fetcher, Source
from neffd.fetch.refusals import Refusals
from neffd.managed import ManagedRemote, ManagedRoot
from neffd.metrics import Metrics
from neffd.notify import Notifier
from neffd.publish import receipt
from neffd.publish.audience import Audience
from neffd.publish.batch import Item, Limits
from neffd.publish.collect import Collector
from neffd.publish.journal import Journal, Parked
from neffd.publish.push import Pusher
from neffd.publish.take import Trust
from neffd.remotes.base import RemoteUnavailable
from neffd.remotes.opening import open_remote
from neffd.serve.http import HttpServer
from neffd.serve.listener import Listener
from neffd.serve.operations import standard
from neffd.serve.operations.compiles import of_keeper
from neffd.serve.operations.why import Why
from neffd.serve.session import Operation, Resolver, Session
from neffd.serve.status import Problems, counters
from neffd.slots import Line
from neffd.store import workdirs
from neffd.store.database import Database
from neffd.store.index import Index
from neffd.store.root import CacheRoot
from neffd.store.space import Space, limits_of, policy_of
from neffd.store.staging import clean_staging, own_staging
from neffd.tasks import Tasks

log = logging.getLogger(__name__)

_WORKERS = 16
# SIGTERM to exit stays under 10 s: what is nearly done gets this long, then everything is cancelled.
_FINISH_S = 6.0
_CANCEL_S = 2.0
_FLUSH_LOOK_S = 0.1
# Each costs polls and, where it is written, a worker process.
_MAX_REMOTES = 16


class Service:
    """Builds the daemon from its configuration, runs it until told to stop."""

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._began_at = clock()
        self._stop = asyncio.Event()
        self._exit_code = 0
        self.metrics = Metrics()
        self.tasks = Tasks(self._on_crash)
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="neffd-worker")
        self._line = Line(config.fetch.parallel, config.fetch.max_bytes_in_flight)
        self._roots: list[ManagedRoot] = []
        self._remotes: list[ManagedRemote] = []
        self._sources: list[Source] = []
        self._orphans: dict[str, list[ModuleName]] = {}
        self._staging_locks: list[int] = []
        self._listener = Listener(config.socket, config.socket_mode, config.socket_group)
        self._http = HttpServer(self, self.metrics)
        self.http_address: str | None = None

    def stop(self) -> None:
        """Begin a graceful stop; safe to call more than once."""
        self._stop.set()

    async def run(self, notifier: Notifier | None = None) -> int:
        """Start, serve until `stop`, and return the exit code. Raises NeffdError if starting is not possible."""
        notifier = notifier or Notifier({})
        loop = asyncio.get_running_loop()

        def on_damage(error: BaseException) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended; so have we
                loop.call_soon_threadsafe(self._on_crash, "database", error)

        self._database = Database(self._config.state_dir, on_damage)
        self._care = Care(self._database, self.metrics, self._workers, self.tasks, self._catalogs, self._clock)
        try:
            await self._start()
            self.tasks.start(notifier.keep_alive(), name="watchdog")
            notifier.send("READY=1")
            log.info("ready")
            await self._stop.wait()
        finally:
            notifier.send("STOPPING=1")
            await self._shut_down()
        return self._exit_code

    async def _start(self) -> None:
        index = Index(self._database)
        self._journal = Journal(self._database, index)
        for lock in await self._in_worker(index.clear_claims):
            log.info("removed our own left-over lock %s", lock)
        roots = [await self._in_worker(CacheRoot, path) for path in self._config.cache_dirs]
        self._staging_locks = [await self._in_worker(own_staging, root) for root in roots]
        recovered = await self._in_worker(receipt.recover, self._journal, roots)
        if recovered:
            log.warning("the journal was lost; noted again from the staging folders: %d entries", recovered)
        pinned = await self._in_worker(self._journal.folders_blocking)
        for root in roots:
            await self._in_worker(clean_staging, root, pinned)
        self._refusals = Refusals(self._database)
        await self._refusals.load()
        self._open_remotes()
        self._roots = [self._manage(root, index) for root in roots]
        self._keeper = keeper_of(
            self._roots,
            self._config.locks,
            self._database,
            index,
            self.tasks,
            self.metrics,
            self._workers,
            on_compiled=lambda place, pid, uid, seconds: self._care.history.compiled(*place, pid, uid, seconds),
            clock=self._clock,
        )
        self._orphans = await self._find_orphans()
        for remote, names in self._orphans.items():
            log.warning(
                "%d entries wait for remote %r, which is not configured as read-write; they stay until one is",
                len(names),
                remote,
            )
        operations = self._operations()
        await self._listener.start(lambda: Session(self, operations, self._care.tell))
        if self._config.http is not None:
            self.http_address = str(await self._http.start(self._config.http.host, self._config.http.port))
        self._start_tasks()
        self.tasks.start(self._in_worker(self._database.check_blocking), name="check")
        served, remotes = [str(root.path) for root in roots], [managed.remote.name for managed in self._remotes]
        log.info("neffd %s serves %s on %s, remotes %s", __version__, served, self._config.socket, remotes)

    def _operations(self) -> dict[str, Operation]:
        locks = of_keeper(self._keeper, waits=self._config.locks.wait)
        return {**standard(self), "why": Why(self._care), **locks}

    def _open_remotes(self) -> None:
        for config in self._config.remotes:
            managed = self._open_remote(config)
            self._remotes.append(managed)
            self._sources.append(Source(managed.remote, managed.catalog))

    def _open_remote(self, config: RemoteConfig) -> ManagedRemote:
        upload = self._config.upload
        remote = open_remote(config, self._config.state_dir)
        breakers = Breakers(self._clock)
        self.metrics.watch_breaker(remote.name, "read", breakers.read)
        saved, reads = SavedListings(self._database), breakers.read
        catalog = Catalog(remote, self.tasks, self.metrics, saved, poll_s=config.poll_s, clock=self._clock, reads=reads)
        if not config.can_write:
            return ManagedRemote(config, remote, catalog, None, self._refusals)
        self.metrics.watch_breaker(remote.name, "write", breakers.write)
        pusher = Pusher(
            remote,
            self._journal,
            self.metrics,
            Limits(upload.quiet_s, upload.max_delay_s, upload.max_bytes, upload.max_files),
            allow_public=config.allow_public,
            existing=upload.existing,
            is_refused=lambda name: self._refusals.stands(catalog, name, look=True),
            writes=breakers.write,
            on_outcome=functools.partial(self._care.delivered, remote.name),
            clock=self._clock,
        )
        return ManagedRemote(config, remote, catalog, pusher, self._refusals)

    def _manage(self, root: CacheRoot, index: Index) -> ManagedRoot:
        upload, fetch = self._config.upload, self._config.fetch
        problems = Problems(str(root.path))
        space = Space(
            root,
            index,
            self.metrics,
            self._workers,
            limits=limits_of(self._config.store, root),
            policy=policy_of(self._config.store),
            copies=self._copies,
            is_settling=lambda name: collector.is_settling(name),
            on_evicted=lambda name: self._care.history.note(root.path, name, "evicted"),
            on_problem=problems.note,
            on_healed=problems.over,
        )
        fetcher = Fetcher(
            root,
            self._sources,
            index,
            self._refusals,
            self.tasks,
            self.metrics,
            self._workers,
            line=self._line,
            space=space,
            stall_s=fetch.stall_s,
            elsewhere=lambda: [managed.root for managed in self._roots],
            clock=self._clock,
            on_problem=problems.note,
            on_healed=problems.over,
        )
        trust = Trust.of(root.path, upload.trusted_uids, upload.trusted_gids)
        fetch_calmly = functools.partial(fetcher.resolve, urgent=False)
        care = self._care.look_after(root, self._config, trust, fetch=fetch_calmly, on_problem=problems.note)
        collector = Collector(
            root,
            index,
            self._journal,
            self.metrics,
            self._workers,
            audience=self._audience,
            trust=trust,
            settle_s=upload.settle_s,
            scan_s=self._config.scan_s,
            on_taken=self._on_taken,
            on_unlocked=lambda name: self._unlocked(Place(str(root.path), name), fetcher),
            on_namespace=self._use_namespace,
            on_look=lambda name, looks: care.saw(name, looks) if space.saw(name, looks) else None,
            on_scanned=space.scanned,
            compile_s=care.compile_s,
            on_problem=problems.note,
            on_healed=problems.over,
            clock=self._clock,
        )
        return ManagedRoot(root, fetcher, collector, space, problems)

    def _copies(self, name: ModuleName) -> tuple[int, int]:
        """How many remotes hold an entry that can be used: those that answer, those that do not just now."""
        usable = [
            catalog
            for remote, catalog in self._catalogs()
            if catalog.knows(*name) and not self._refusals.noted(remote, name)
        ]
        away = sum(catalog.trouble is not None for catalog in usable)
        return len(usable) - away, away

    def _catalogs(self) -> list[tuple[str, Catalog]]:
        return [(managed.remote.name, managed.catalog) for managed in self._remotes]

    def _audience(self) -> Audience:
        writable = [managed.config for managed in self._remotes if managed.pusher is not None]
        return Audience(
            frozenset(config.name for config in writable),
            frozenset(config.name for config in writable if config.mirror),
            existing=self._config.upload.existing != "never",
        )

    def _start_tasks(self) -> None:
        self._care.start()
        self.tasks.start(self._keeper.run(), name="keeper")
        for managed in self._roots:
            self.tasks.start(managed.collector.run(), name=f"collect-{managed.root.path}")
            self.tasks.start(managed.fetcher.run(), name=f"fetcher-{managed.root.path}")
            self.tasks.start(managed.space.run(), name=f"space-{managed.root.path}")
        for remote in self._remotes:
            self._start_remote(remote)
        days = self._config.store.clear_workdirs_days
        if days is not None:
            self.tasks.start(workdirs.run(days * 86_400.0, self._workers), name="workdirs")

    def _start_remote(self, managed: ManagedRemote) -> None:
        name = managed.remote.name
        self.tasks.start(managed.catalog.keep_fresh(), name=f"catalog-{name}")
        if managed.pusher is not None:
            self.tasks.start(managed.pusher.run(), name=f"push-{name}")

    async def _shut_down(self) -> None:
        """No more questions, finish what is nearly done, cancel the rest, close what is durable last."""
        self._listener.stop()
        for managed in self._roots:
            managed.fetcher.stopping = True
        deadline = self._clock() + _FINISH_S
        while self._clock() < deadline and self._is_busy():  # noqa: ASYNC110, the end is spread over many objects
            await asyncio.sleep(0.02)
        await self._http.stop()
        stuck = await self.tasks.stop(_CANCEL_S)
        if stuck:
            log.warning("did not end in time: %s", ", ".join(stuck))
        for remote in self._remotes:
            await remote.remote.close()
        await self._care.stop()
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._database.close()
        for lock in self._staging_locks:
            os.close(lock)
        left = sum(remote.pusher.waiting for remote in self._remotes if remote.pusher)
        left += sum(map(len, self._orphans.values()))
        if self._roots:  # else the start itself failed, and says why
            log.info("stopped; %d deliveries wait in the journal for the next start", left)

    def _is_busy(self) -> bool:
        pushing = any(remote.pusher is not None and remote.pusher.is_busy for remote in self._remotes)
        return pushing or any(len(managed.fetcher.flights) for managed in self._roots)

    def _on_crash(self, name: str, error: BaseException) -> None:
        """Rather end with a clear message than go on half alive; systemd starts us again."""
        if not name.startswith(("collect-", "fetcher-", "space-", "database", "catalog-", "push-", "keeper")):
            return
        log.critical("stopping: %s failed: %s", name, error)
        self._exit_code = 1
        self._stop.set()

    def _use_namespace(self, namespace: str) -> None:
        for managed in self._remotes:
            managed.catalog.use(namespace)

    def _unlocked(self, place: Place, fetcher: Fetcher) -> None:
        fetcher.nudge()
        self._keeper.unlocked(place)

    def _on_taken(self, name: ModuleName, item: Item, remotes: Collection[str]) -> None:
        self._care.taken(name, remotes)
        for managed in self._remotes:
            if managed.pusher is not None and managed.remote.name in remotes:
                managed.pusher.add(item)

    async def _in_worker(self, work: Callable[..., Any], *args: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work, *args)

    # What sessions, operations and pages ask (serve.session.Host, serve.operations.Daemon, serve.http.StatusSource).

    def find_root(self, hello: Message) -> tuple[Resolver | None, str | None, str | None]:
        """The managed directory that a client means: the same directory, under whatever path."""
        path = hello.get("root")
        if path is None:
            return None, None, "no-cache-dir"
        identity = (hello.get("device"), hello.get("inode"))
        for managed in self._roots:
            root = managed.root
            # By its path only where the client sees no directory yet: a container may have another one of that name.
            if identity == root.identity() or (identity == (None, None) and path == str(root.path)):
                return managed.fetcher, str(root.path), self._use_client_repo(hello.get("repo"))
        return None, None, "other-cache-dir"

    def _use_client_repo(self, repo: object) -> str | None:
        """Honour the Hub repo of a client's environment; the reason where that is not to be."""
        if not isinstance(repo, str) or any(managed.config.repo_id == repo for managed in self._remotes):
            return None
        if not self._config.allow_client_remotes or len(self._remotes) >= _MAX_REMOTES:
            return "repo-not-configured"
        try:
            config = RemoteConfig(url=f"hf://{repo}", mode="read-write")
        except ValueError:
            return "repo-not-configured"
        if any(managed.config.name == config.name for managed in self._remotes):
            return "repo-not-configured"
        log.info("a client brought the remote %s", repo)
        managed = self._open_remote(config)
        # What a user chose goes before what everybody has.
        self._remotes.insert(0, managed)
        self._sources.insert(0, Source(managed.remote, managed.catalog))
        self._start_remote(managed)
        return None

    def resolver_for(self, name: ModuleName) -> Resolver | None:
        """The first cache directory, which is the only one on most hosts."""
        return self._roots[0].fetcher if self._roots else None

    async def full_names(self, keys: Collection[str]) -> dict[str, list[ModuleName]]:
        """For each bare key the names under which some remote holds it; every remote is looked at once."""
        catalogs = [managed.catalog for managed in self._remotes]
        for looked in await asyncio.gather(*(catalog.discover() for catalog in catalogs), return_exceptions=True):
            if isinstance(looked, RemoteUnavailable):
                log.info("looking for bare keys: %s", looked)
            elif isinstance(looked, BaseException):
                raise looked
        return {
            key: [
                ModuleName(namespace, key)
                for namespace in sorted({found for catalog in catalogs for found in catalog.namespaces_with(key)})
            ]
            for key in keys
        }

    async def flush(self, timeout_s: float, progress: Callable[[int], None]) -> tuple[int, list[dict[str, str]]]:
        """Look once more, send what waits, until nothing does or `timeout_s` has passed."""
        began = self._clock()
        deadline = began + timeout_s
        # What has just been compiled is let settle first, so that all of it goes as one batch.
        settled_by = began + 2 * self._config.upload.settle_s + 1
        for managed in self._roots:
            await managed.collector.scan_now()
        shown = -1
        while (pending := self._pending()) and self._clock() < deadline:
            if pending != shown:
                progress(pending)
                shown = pending
            is_settled = not any(managed.collector.settling for managed in self._roots)
            for remote in self._remotes:
                if remote.pusher is not None and (is_settled or self._clock() > settled_by):
                    remote.pusher.flush()
            await asyncio.sleep(_FLUSH_LOOK_S)
        parked = [kept for remote in self._remotes if remote.pusher for kept in remote.pusher.parked.values()]
        parked += [
            Parked(name, remote, "remote-not-configured") for remote, names in self._orphans.items() for name in names
        ]
        return self._pending(), [
            {"name": str(kept.name), "remote": kept.remote, "reason": kept.reason} for kept in parked
        ]

    async def _find_orphans(self) -> dict[str, list[ModuleName]]:
        """What the journal holds for remotes that nothing is pushed to: renamed, removed, or read-only now."""
        pushed = {managed.remote.name for managed in self._remotes if managed.pusher is not None}
        return {
            remote: await self._journal.names_for(remote) for remote in sorted(await self._journal.remotes() - pushed)
        }

    def _pending(self) -> int:
        waiting = sum(remote.pusher.waiting for remote in self._remotes if remote.pusher is not None)
        return waiting + sum(managed.collector.settling for managed in self._roots)

    def status(self) -> dict[str, Any]:
        """The status document; its form is described in docs/protocol.md."""
        now = self._clock()
        return {
            "schema": 1,
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": round(now - self._began_at, 1),
            "state": "stopping" if self._stop.is_set() else "running",
            "cache_dirs": [managed.status() for managed in self._roots],
            "remotes": [remote.status() for remote in self._remotes],
            "orphaned": [{"remote": remote, "waiting": len(names)} for remote, names in self._orphans.items()],
            "fetching": [
                {
                    "name": str(flight.name),
                    "remote": flight.remote,
                    "done_bytes": flight.own_bytes,
                    "total_bytes": flight.total_bytes,
                    "since_s": round(now - flight.began_at, 1),
                }
                for managed in self._roots
                for flight in managed.fetcher.flights.under_way()
            ],
            "compiling": self._keeper.status(),
            "counters": counters(self.metrics),
        }

    def health(self) -> list[str]:
        """Why the daemon cannot do its work; a remote that is away is no such reason."""
        reasons = ["stopping"] if self._stop.is_set() else []
        return reasons + [
            f"{managed.root.path}: {problem}" for managed in self._roots for problem in managed.problems.fatal()
        ]
