"""The daemon as a whole: what is built from what, in which order it starts, and how it stops."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from neff.keys import ModuleName
from neff.protocol import Message
from neffd import __version__
from neffd.catalog.catalog import Catalog
from neffd.catalog.saved import SavedListings
from neffd.config import Config, RemoteConfig
from neffd.fetch.fetcher import Fetcher, Source
from neffd.managed import ManagedRemote, ManagedRoot
from neffd.metrics import Metrics
from neffd.notify import Notifier
from neffd.publish.batch import Item, Limits
from neffd.publish.collect import Audience, Collector
from neffd.publish.journal import Journal, Parked
from neffd.publish.push import Pusher
from neffd.publish.take import Trust
from neffd.remotes.base import RemoteUnavailable
from neffd.remotes.opening import open_remote
from neffd.serve.http import HttpServer
from neffd.serve.listener import Listener
from neffd.serve.session import Resolver, Session
from neffd.serve.status import Problems, counters
from neffd.store.database import Database
from neffd.store.index import Index
from neffd.store.root import CacheRoot
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
        self._database = Database(self._config.state_dir)
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
        pinned = await self._in_worker(self._journal.folders_blocking)
        for root in roots:
            await self._in_worker(clean_staging, root, pinned)
        self._open_remotes()
        self._roots = [self._manage(root, index) for root in roots]
        self._orphans = await self._find_orphans()
        for remote, names in self._orphans.items():
            log.warning(
                "%d entries wait for remote %r, which is not configured as read-write; they stay until one is",
                len(names),
                remote,
            )
        await self._listener.start(lambda: Session(self))
        if self._config.http is not None:
            self.http_address = str(await self._http.start(self._config.http.host, self._config.http.port))
        self._start_tasks()
        served, remotes = [str(root.path) for root in roots], [managed.remote.name for managed in self._remotes]
        log.info("neffd %s serves %s on %s, remotes %s", __version__, served, self._config.socket, remotes)

    def _open_remotes(self) -> None:
        for config in self._config.remotes:
            managed = self._open_remote(config)
            self._remotes.append(managed)
            self._sources.append(Source(managed.remote, managed.catalog))

    def _open_remote(self, config: RemoteConfig) -> ManagedRemote:
        upload = self._config.upload
        remote = open_remote(config, self._config.state_dir)
        catalog = Catalog(
            remote, self.tasks, self.metrics, SavedListings(self._database), poll_s=config.poll_s, clock=self._clock
        )
        if not config.can_write:
            return ManagedRemote(config, remote, catalog, None)
        pusher = Pusher(
            remote,
            self._journal,
            self.metrics,
            Limits(upload.quiet_s, upload.max_delay_s, upload.max_bytes, upload.max_files),
            allow_public=config.allow_public,
            existing=upload.existing,
            is_refused=lambda name: any(root.fetcher.is_refused(remote.name, name) for root in self._roots),
            clock=self._clock,
        )
        return ManagedRemote(config, remote, catalog, pusher)

    def _manage(self, root: CacheRoot, index: Index) -> ManagedRoot:
        upload, fetch = self._config.upload, self._config.fetch
        problems = Problems(str(root.path))
        fetcher = Fetcher(
            root,
            self._sources,
            index,
            self.tasks,
            self.metrics,
            self._workers,
            parallel=fetch.parallel,
            stall_s=fetch.stall_s,
            clock=self._clock,
            on_problem=problems.note,
            on_healed=problems.over,
        )
        collector = Collector(
            root,
            index,
            self._journal,
            self.metrics,
            self._workers,
            audience=self._audience,
            trust=Trust.of(root.path, upload.trusted_uids, upload.trusted_gids),
            settle_s=upload.settle_s,
            scan_s=self._config.scan_s,
            on_taken=self._on_taken,
            on_unlocked=fetcher.nudge,
            on_namespace=self._use_namespace,
            on_problem=problems.note,
            on_healed=problems.over,
            clock=self._clock,
        )
        return ManagedRoot(root, fetcher, collector, problems)

    def _audience(self) -> Audience:
        writable = [managed.config for managed in self._remotes if managed.pusher is not None]
        return Audience(
            frozenset(config.name for config in writable),
            frozenset(config.name for config in writable if config.mirror),
            existing=self._config.upload.existing != "never",
        )

    def _start_tasks(self) -> None:
        for managed in self._roots:
            self.tasks.start(managed.collector.run(), name=f"collect-{managed.root.path}")
            self.tasks.start(managed.fetcher.run(), name=f"fetcher-{managed.root.path}")
        for remote in self._remotes:
            self._start_remote(remote)

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
        if not name.startswith(("collect-", "fetcher-", "catalog-", "push-")):
            return
        log.critical("stopping: %s failed: %s", name, error)
        self._exit_code = 1
        self._stop.set()

    def _use_namespace(self, namespace: str) -> None:
        for managed in self._remotes:
            managed.catalog.use(namespace)

    def _on_taken(self, item: Item, remotes: Collection[str]) -> None:
        for managed in self._remotes:
            if managed.pusher is not None and managed.remote.name in remotes:
                managed.pusher.add(item)

    async def _in_worker(self, work: Callable[..., Any], *args: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work, *args)

    # What sessions and pages ask (neffd.serve.session.Host, neffd.serve.http.StatusSource).

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
            "counters": counters(self.metrics),
        }

    def health(self) -> list[str]:
        """Why the daemon cannot do its work; a remote that is away is no such reason."""
        reasons = ["stopping"] if self._stop.is_set() else []
        return reasons + [
            f"{managed.root.path}: {problem}" for managed in self._roots for problem in managed.problems.fatal()
        ]
