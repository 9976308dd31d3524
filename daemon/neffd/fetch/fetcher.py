"""Fetching into one cache directory: look, download, verify, place; once, however many ask.

The asker's own limits are the client's business; here nothing waits for ever either: transfers that stall are given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from neff.keys import ModuleName
from neffd import points
from neffd.catalog.catalog import Catalog
from neffd.fetch import verify
from neffd.fetch.flight import LONGEST_WAIT_S, READY_HERE, Answer, Flight, Flights
from neffd.fetch.nearest import nearest_first
from neffd.layouts import xla
from neffd.metrics import Metrics
from neffd.remotes.base import BEING_REWRITTEN, EntryRefused, Remote, RemoteEntry, RemoteUnavailable
from neffd.remotes.provenance import FileDigest
from neffd.store import fsops, index
from neffd.store.index import Index
from neffd.store.place import Placement, Placer
from neffd.store.root import PART_SUFFIX, CacheRoot, FileFacts
from neffd.store.sharing import CannotShare
from neffd.tasks import Tasks

log = logging.getLogger(__name__)
_T = TypeVar("_T")

_DESCRIBE_LIMIT_S = 30.0
# A copy that failed verification is not asked for again for this long (or until the remote's listing drops it).
_REFUSED_FOR_S = 600.0
_STALL_CHECK_S = 0.5
_RETRY_EVERY_S = 1.0
_PRESENT, _ABSENT = "present", "absent"


@dataclass(frozen=True)
class Source:
    """A remote and what we know of it, in the order of preference."""

    remote: Remote
    catalog: Catalog


@dataclass(frozen=True)
class _Waiting:
    """A fetched entry that somebody else's lock keeps out; it goes in, or away, when the lock goes."""

    staged: Path
    source: str
    size_bytes: int


class Fetcher:
    """Answers for the keys of one cache directory."""

    def __init__(
        self,
        root: CacheRoot,
        sources: Sequence[Source],
        known: Index,
        tasks: Tasks,
        metrics: Metrics,
        workers: Executor,
        *,
        parallel: int,
        stall_s: float,
        clock: Callable[[], float] = time.monotonic,
        on_problem: Callable[[str, str, str], None] = lambda reason, detail, hint: None,
        on_healed: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._root = root
        self._sources = sources
        self._index = known
        self._placer = Placer(root, known)
        self._tasks = tasks
        self._metrics = metrics
        self._workers = workers
        self._clock = clock
        self._stall_s = stall_s
        self._on_problem = on_problem
        self._on_healed = on_healed
        self._slots = asyncio.Semaphore(parallel)
        self._refused: dict[tuple[str, ModuleName], float] = {}
        self._waiting: dict[ModuleName, _Waiting] = {}
        self._nudged = asyncio.Event()
        self.flights = Flights(clock)
        self.stopping = False

    def resolve(self, name: ModuleName) -> Answer | Flight:
        """The answer where it is known at once, else the flight that will bring it."""
        if self._root.is_ready(name):
            return READY_HERE
        if self.stopping:
            return Answer(False, "stopping")
        if not self._sources:
            return Answer(False, "no-remotes")
        if name in self._waiting:
            return Answer(False, "locked")
        if all(source.catalog.knows_absent(*name) for source in self._sources):
            return Answer(False, "not-on-remotes")
        flight, is_new = self.flights.join(name)
        if is_new:
            self._tasks.start(self._fly(flight), name=f"fetch-{name.key}")
        return flight

    async def run(self) -> None:
        """Until cancelled: place, or drop, what another process's lock kept out when that lock goes."""
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._nudged.wait(), _RETRY_EVERY_S if self._waiting else None)
            self._nudged.clear()
            for name, waiting in list(self._waiting.items()):
                await self._retry(name, waiting)

    def nudge(self) -> None:
        """A lock file came or went."""
        self._nudged.set()

    async def _retry(self, name: ModuleName, waiting: _Waiting) -> None:
        try:
            placement = await self._in_worker(self._place, name, waiting.staged, False)
        except (CannotShare, OSError) as error:
            log.warning("%s: %s", name, error)
            await self._in_worker(fsops.remove_tree, waiting.staged)
        else:
            if placement is Placement.LOCKED:
                return
            self._count(name, placement, waiting)
        self._waiting.pop(name, None)

    async def _fly(self, flight: Flight) -> None:
        answer = Answer(False, "stopping")
        try:
            answer = await self._first_that_works(flight)
        except CannotShare as error:
            self._on_problem("cannot-share", error.detail, error.hint)
            answer = Answer(False, "cannot-share")
        except (OSError, sqlite3.Error) as error:
            log.warning("fetch of %s: %s", flight.name, error)
            self._on_problem("disk", (error.strerror if isinstance(error, OSError) else None) or str(error), "")
            answer = Answer(False, "disk")
        except Exception:  # a defect of ours must cost this one entry, and be seen
            log.exception("fetch of %s", flight.name)
            answer = Answer(False, "internal-error")
        finally:
            self.flights.land(flight, answer)

    async def _first_that_works(self, flight: Flight) -> Answer:
        """Ask all remotes at once, try those that hold the entry; the word on a miss is the most uncertain one."""
        sources = list(self._sources)
        asked = [
            self._tasks.start(self._ask(source, flight.name), name=f"ask-{source.remote.name}", watched=True)
            for source in sources
        ]
        reason = "not-on-remotes"
        try:
            async for position in nearest_first(asked, yes=_PRESENT):
                verdict = asked[position].result()
                if verdict == _PRESENT:
                    answer = await self._try(flight, sources[position])
                    if answer.ready or answer.reason == "locked":
                        return answer
                    verdict = answer.reason
                reason = reason if verdict == _ABSENT else verdict
        finally:
            for question in asked:
                question.cancel()
        return Answer(False, reason)

    async def _try(self, flight: Flight, source: Source) -> Answer:
        """Fetch from one remote; an absent answer says why it did not work."""
        remote = source.remote.name
        flight.found, flight.remote = True, remote
        try:
            return await self._fetch(flight, source)
        except RemoteUnavailable as error:
            log.info("fetch of %s: remote %s: %s", flight.name, remote, error)
            self._metrics.remote_failures.labels(remote, error.reason).inc()
            return Answer(False, "remote-unavailable")
        except EntryRefused as error:
            log.warning("refused %s from remote %s: %s", flight.name, remote, error)
            self._metrics.refused.labels(remote, error.reason).inc()
            self._refused[remote, flight.name] = self._clock() + _REFUSED_FOR_S
            return Answer(False, "refused")
        except _Gone:
            source.catalog.forget(*flight.name)
            return Answer(False, _ABSENT)

    async def _ask(self, source: Source, name: ModuleName) -> str:
        """`_PRESENT` or `_ABSENT`, or why nobody can say."""
        if self.is_refused(source.remote.name, name):
            return "refused"
        try:
            return _PRESENT if await source.catalog.holds(*name) else _ABSENT
        except RemoteUnavailable as error:
            log.info("question about %s: remote %s: %s", name, source.remote.name, error)
            return "remote-unavailable"

    async def _fetch(self, flight: Flight, source: Source) -> Answer:
        try:
            return await self._fetch_once(flight, source)
        except RemoteUnavailable as error:
            if error.reason != BEING_REWRITTEN:
                raise
        return await self._fetch_once(flight, source)  # described anew

    async def _fetch_once(self, flight: Flight, source: Source) -> Answer:
        try:
            entry = await asyncio.wait_for(source.remote.describe(flight.name), _DESCRIBE_LIMIT_S)
        except asyncio.TimeoutError:
            raise RemoteUnavailable("timeout") from None
        if entry is None:
            raise _Gone
        if entry.provenance is not None and entry.provenance.compile_s is not None:
            flight.give_up_s = min(LONGEST_WAIT_S, max(entry.provenance.compile_s, self._stall_s))
        async with self._slots:
            return await self._bring(flight, source, entry)

    async def _bring(self, flight: Flight, source: Source, entry: RemoteEntry) -> Answer:
        """Download, verify, place; what was staged is gone afterwards, unless a lock keeps it waiting."""
        flight.total_bytes = entry.size_bytes
        staged = await self._in_worker(self._root.new_folder, "fetch")
        try:
            digests = await self._download(flight, source.remote, entry, staged)
            placement, oddities = await self._in_worker(self._land, flight, entry, staged, digests, source.remote.name)
        except BaseException:
            await self._in_worker(fsops.remove_tree, staged)
            raise
        for oddity in oddities:
            self._metrics.suspicious.labels(oddity).inc()
        waiting = _Waiting(staged, source.remote.name, entry.size_bytes)
        if placement is Placement.LOCKED:
            self._waiting[flight.name] = waiting
            self.nudge()  # from now on there is something to look at now and then
            return Answer(False, "locked")
        self._count(flight.name, placement, waiting)
        return Answer(True, source=source.remote.name if placement is Placement.PLACED else "local")

    def _land(
        self, flight: Flight, entry: RemoteEntry, staged: Path, digests: Mapping[str, FileDigest], remote: str
    ) -> tuple[Placement, list[str]]:
        """Verify, note where it comes from, place: on a worker thread, in one go. Also returns what looked odd."""
        oddities = verify.check(entry, staged, digests)
        points.reached("entry-staged")
        self._note_origin(entry, staged, digests, remote)
        points.reached("index-written")
        return self._place(entry.name, staged, bool(flight.holders)), oddities

    async def _download(
        self, flight: Flight, remote: Remote, entry: RemoteEntry, staged: Path
    ) -> Mapping[str, FileDigest]:
        """Download, given up when no byte arrives for the stall limit."""
        flight.own_bytes = 0
        transfer = self._tasks.start(
            remote.download(entry, staged, lambda count: self.flights.moved(flight, count)),
            name=f"download-{flight.name.key}",
            watched=True,
        )
        seen_bytes, seen_at = 0, self._clock()
        try:
            while True:
                finished, _ = await asyncio.wait({transfer}, timeout=_STALL_CHECK_S)
                if finished:
                    digests: Mapping[str, FileDigest] = transfer.result()
                    return digests
                if flight.own_bytes != seen_bytes:
                    seen_bytes, seen_at = flight.own_bytes, self._clock()
                elif self._clock() - seen_at > self._stall_s:
                    raise RemoteUnavailable("stalled", f"no byte in {self._stall_s:g} s")
        finally:
            transfer.cancel()

    def _note_origin(self, entry: RemoteEntry, staged: Path, digests: Mapping[str, FileDigest], remote: str) -> None:
        """Before the ready mark appears: what is placed now must never be taken for our own work."""
        facts = (staged / (xla.NEFF + PART_SUFFIX)).stat()
        neff = FileFacts(facts.st_size, facts.st_mtime_ns, facts.st_ino, facts.st_uid, facts.st_gid)
        compile_s = entry.provenance.compile_s if entry.provenance else None
        self._index.note_blocking(self._root.path, entry.name, index.from_remote(remote), neff, digests, compile_s)

    def _place(self, name: ModuleName, staged: Path, asker_holds_lock: bool) -> Placement:
        placement = self._placer.place(name, staged, asker_holds_lock=asker_holds_lock)
        if placement is not Placement.LOCKED:
            fsops.remove_tree(staged)
        return placement

    def _count(self, name: ModuleName, placement: Placement, entry: _Waiting) -> None:
        log.info("%s from %s: %s, %d bytes", name, entry.source, placement.value, entry.size_bytes)
        if placement is Placement.PLACED:
            self._on_healed("disk")
            self._metrics.fetched_entries.labels(entry.source).inc()
            self._metrics.fetched_bytes.labels(entry.source).inc(entry.size_bytes)

    def is_refused(self, remote: str, name: ModuleName) -> bool:
        """Whether that remote's copy failed verification lately."""
        until = self._refused.get((remote, name))
        if until is None:
            return False
        if self._clock() < until:
            return True
        del self._refused[remote, name]
        return False

    async def _in_worker(self, work: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work, *args)


class _Gone(Exception):
    """The remote no longer holds what its listing said."""
