"""Fetching into one cache directory: look, download, verify, place; once, however many ask.

The asker's own limits are the client's business; here nothing waits for ever either: transfers that stall are given up.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from neff.keys import LockId, ModuleName
from neffd import points
from neffd.breaker import Breaker, BreakerOpen
from neffd.catalog.catalog import Catalog
from neffd.compiles import lockfile
from neffd.fetch import verify
from neffd.fetch.diskdoubt import DiskDoubt
from neffd.fetch.flight import READY_HERE, Answer, Flight, Flights
from neffd.fetch.nearest import nearest_first
from neffd.fetch.refusals import Refusals
from neffd.fetch.watching import Watching
from neffd.layouts import xla
from neffd.metrics import Metrics
from neffd.remotes.base import (
    BEING_REWRITTEN,
    REVISION_GONE,
    EntryRefused,
    Fetched,
    Remote,
    RemoteUnavailable,
    SpoiltOnTheWay,
)
from neffd.serve.status import Problems
from neffd.slots import Line
from neffd.store import fsops, index
from neffd.store.index import Index
from neffd.store.place import Placement, Placer
from neffd.store.root import PART_SUFFIX, CacheRoot, FileFacts
from neffd.store.sharing import CannotShare
from neffd.store.space import NEARLY_FULL, DiskFull, Space
from neffd.tasks import Tasks, Wake

log = logging.getLogger(__name__)
_T = TypeVar("_T")

_DESCRIBE_LIMIT_S = 30.0
_STALL_CHECK_S = 0.5
_RETRY_EVERY_S = 1.0
_PRESENT, _ABSENT = "present", "absent"


@dataclass(frozen=True)
class Source:
    """A remote and what we know of it, in the order of preference."""

    remote: Remote
    catalog: Catalog


@dataclass(frozen=True)
class _Copy:
    """A fetched entry. One that somebody else's lock keeps out goes in, or away, when the lock goes."""

    staged: Path
    source: str
    size_bytes: int
    compile_s: float | None

    @property
    def answer(self) -> Answer:
        """What is said of it once it is placed."""
        return Answer(True, source=self.source, compile_s=self.compile_s)


class Fetcher:
    """Answers for the keys of one cache directory."""

    def __init__(
        self,
        root: CacheRoot,
        sources: Sequence[Source],
        known: Index,
        refusals: Refusals,
        tasks: Tasks,
        metrics: Metrics,
        workers: Executor,
        *,
        line: Line,
        space: Space,
        stall_s: float,
        worth_s: Callable[[ModuleName, int, float | None], float | None],
        known_s: Callable[[ModuleName, float | None], float | None] = lambda name, stated_s: stated_s,
        elsewhere: Callable[[], Iterable[CacheRoot]] = tuple,
        clock: Callable[[], float] = time.monotonic,
        problems: Problems | None = None,
        on_placed: Callable[[ModuleName], None] = lambda name: None,
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
        self._worth_s = worth_s
        self._known_s = known_s
        self._on_placed = on_placed
        self._problems = problems or Problems(str(root.path))
        self._disk = DiskDoubt(root, known, self._problems)
        self._line = line
        self._space = space
        self._elsewhere = elsewhere
        self._refusals = refusals
        self._waiting: dict[ModuleName, _Copy] = {}
        self._putting_in = asyncio.Lock()
        self._nudged = Wake()
        self.flights = Flights(clock)
        self.stopping = False

    def resolve(self, name: ModuleName, *, urgent: bool = True, holding: LockId | None = None) -> Answer | Flight:
        """The answer where it is known at once, else the flight that will bring it.

        Args:
            urgent: somebody waits for it; also of a flight that was not until now.
            holding: the entry's lock, where the asker has made it: a copy that it kept out may go in.
        """
        if self._root.is_ready(name):
            self._space.used(name)
            return READY_HERE
        if self.stopping:
            return Answer(False, "stopping")
        if not self._sources:
            return Answer(False, "no-remotes")
        is_kept_out = name in self._waiting
        if is_kept_out and holding is None:
            return Answer(False, "locked")
        if not is_kept_out and all(source.catalog.knows_absent(*name) for source in self._sources):
            return Answer(False, "not-on-remotes")
        flight, is_new = self.flights.join(name)
        if urgent and not flight.is_urgent:
            flight.is_urgent = True
            self._line.reconsider()
        if is_new:
            self._tasks.start(self._fly(flight, holding), name=f"fetch-{name.key}")
        return flight

    async def run(self) -> None:
        """Until cancelled: place, or drop, what another process's lock kept out when that lock goes."""
        while True:
            await self._nudged.wait(_RETRY_EVERY_S if self._waiting or self._disk.is_in_doubt else None)
            for name in list(self._waiting):
                await self._retry(name)
            if self._disk.is_in_doubt:
                await self._disk.look(self._in_worker)

    def nudge(self) -> None:
        """A lock file came or went."""
        self._nudged.set()

    async def _retry(self, name: ModuleName) -> None:
        try:
            await self._put_in(name, None)
        except (CannotShare, OSError, sqlite3.Error) as error:
            log.warning("%s: %s", name, error)

    async def _put_in(self, name: ModuleName, holding: LockId | None) -> Answer | None:
        """Place a copy that a lock kept out; None if there is none. What cannot be placed is gone afterwards."""
        async with self._putting_in:  # the owner of the lock may ask while the end of another lock is looked at
            waiting = self._waiting.get(name)
            if waiting is None:
                return None
            try:
                holders = [] if holding is None else [holding]
                placement = await self._in_worker(self._place, name, waiting.staged, holders)
            except (CannotShare, OSError):
                await self._in_worker(fsops.remove_tree, waiting.staged)
                del self._waiting[name]
                raise
            if placement is Placement.LOCKED:
                return Answer(False, "locked")
            del self._waiting[name]
        self._count(name, placement, waiting)
        return waiting.answer if placement is Placement.PLACED else READY_HERE

    async def _fly(self, flight: Flight, holding: LockId | None) -> None:
        answer = Answer(False, "stopping")
        try:
            kept_out = await self._put_in(flight.name, holding)
            answer = kept_out or await self._first_that_works(flight)
        except CannotShare as error:
            self._problems.note("cannot-share", error.detail, error.hint, flight.name.namespace)
            answer = Answer(False, "cannot-share")
        except DiskFull as error:
            log.warning("fetch of %s: %s", flight.name, error)
            answer = Answer(False, NEARLY_FULL)
        except (OSError, sqlite3.Error) as error:
            log.warning("fetch of %s: %s", flight.name, error)
            self._disk.failed(error)
            self._nudged.set()
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
        remote, version = source.remote.name, source.catalog.version(flight.name.namespace)
        flight.found, flight.remote = True, remote
        try:
            return await self._fetch(flight, source)
        except RemoteUnavailable as error:
            is_rest = isinstance(error, BreakerOpen)
            level = logging.DEBUG if is_rest else logging.INFO
            log.log(level, "fetch of %s: remote %s: %s", flight.name, remote, error)
            if not is_rest:  # a look that was not taken has not failed
                self._metrics.remote_failures.labels(remote, error.reason).inc()
            return Answer(False, "remote-unavailable")
        except EntryRefused as error:
            log.warning("refused %s from remote %s: %s", flight.name, remote, error)
            self._metrics.refused.labels(remote, error.reason).inc()
            return Answer(False, "refused")
        except _Gone:
            source.catalog.forget(*flight.name, version)
            return Answer(False, _ABSENT)

    async def _ask(self, source: Source, name: ModuleName) -> str:
        """`_PRESENT` or `_ABSENT`, or why nobody can say."""
        if await self._refusals.stands(source.catalog, name):
            return "refused"
        try:
            return _PRESENT if await source.catalog.holds(*name) else _ABSENT
        except RemoteUnavailable as error:
            # Once, when it begins and when it is over, the catalog says so.
            log.debug("question about %s: remote %s: %s", name, source.remote.name, error)
            return "remote-unavailable"

    async def _fetch(self, flight: Flight, source: Source) -> Answer:
        try:
            return await self._fetch_once(flight, source)
        except SpoiltOnTheWay as error:
            log.info("%s from remote %s once more: %s", flight.name, source.remote.name, error)
        except RemoteUnavailable as error:
            if error.reason not in (BEING_REWRITTEN, REVISION_GONE):
                raise
            if error.reason == REVISION_GONE:
                await source.catalog.look(flight.name.namespace)
        return await self._fetch_once(flight, source, is_last=True)  # described anew

    async def _fetch_once(self, flight: Flight, source: Source, *, is_last: bool = False) -> Answer:
        """Bring, verify, place; what was staged is gone afterwards, unless a lock keeps it waiting."""
        await source.catalog.ready_to_fetch(flight.name.namespace)
        reads = source.catalog.reads
        staged = await self._in_worker(self._root.new_folder, "fetch")
        try:
            async with self._watch(flight, reads) as watching:
                with reads.attempt(is_transfer=True):
                    fetched = await self._transfer(flight, source.remote, staged, watching)
                if fetched is None:
                    raise _Gone
                placement, oddities = await self._in_worker(self._land, flight, fetched, staged, source.remote.name)
        except BaseException as error:
            if isinstance(error, EntryRefused) and (is_last or not isinstance(error, SpoiltOnTheWay)):
                await self._refusals.refuse(source.catalog, flight.name, error, staged, self._root.staging)
            await self._in_worker(fsops.remove_tree, staged)
            raise
        for oddity in oddities:
            self._metrics.suspicious.labels(oddity).inc()
        compile_s = self._known_s(flight.name, fetched.compile_s)
        copy = _Copy(staged, source.remote.name, fetched.entry.size_bytes, compile_s)
        if placement is Placement.LOCKED:
            self._waiting[flight.name] = copy
            self.nudge()  # from now on there is something to look at now and then
            return Answer(False, "locked")
        self._count(flight.name, placement, copy)
        return copy.answer if placement is Placement.PLACED else READY_HERE

    def _watch(self, flight: Flight, reads: Breaker) -> Watching:
        return Watching(
            flight,
            self.flights,
            self._line,
            self._clock,
            stall_s=self._stall_s,
            describe_s=_DESCRIBE_LIMIT_S,
            worth_s=self._worth_s,
            on_moved=reads.moved,
            nearby=functools.partial(self._nearby, flight.name),
            reserve=self._space.reserve,
        )

    def _nearby(self, name: ModuleName, file: str) -> Path | None:
        """A file of the same entry in another cache directory of this host."""
        ready = (root for root in self._elsewhere() if root is not self._root and root.is_ready(name))
        return next((root.entry(name) / file for root in ready), None)

    def _land(self, flight: Flight, fetched: Fetched, staged: Path, remote: str) -> tuple[Placement, list[str]]:
        """Verify, note where it comes from, place: on a worker thread, in one go. Also returns what looked odd."""
        oddities = verify.check(fetched.entry, staged, fetched.digests)
        points.reached("entry-staged")
        self._note_origin(fetched, staged, remote)
        points.reached("index-written")
        return self._place(flight.name, staged, list(flight.holders.values())), oddities

    async def _transfer(self, flight: Flight, remote: Remote, staged: Path, watching: Watching) -> Fetched | None:
        """What the remote brings; given up when that is overdue."""
        transfer = self._tasks.start(
            remote.fetch(flight.name, staged, watching), name=f"download-{flight.name.key}", watched=True
        )
        try:
            while True:
                finished, _ = await asyncio.wait({transfer}, timeout=_STALL_CHECK_S)
                if finished:
                    flight.left_s = None  # it is not given up while it goes in
                    return transfer.result()
                if (why := watching.overdue()) is not None:
                    raise RemoteUnavailable("stalled", why)
        finally:
            if not transfer.done():
                transfer.cancel()
                await asyncio.wait({transfer})  # what it writes to is removed next

    def _note_origin(self, fetched: Fetched, staged: Path, remote: str) -> None:
        """Before the ready mark appears: what is placed now must never be taken for our own work."""
        entry = fetched.entry
        neff = FileFacts.of((staged / (xla.NEFF + PART_SUFFIX)).stat())
        compile_s = self._known_s(entry.name, fetched.compile_s)
        origin = index.from_remote(remote)
        self._index.note_blocking(self._root.path, entry.name, origin, neff, fetched.digests, compile_s)

    def _place(self, name: ModuleName, staged: Path, holders: Sequence[LockId]) -> Placement:
        # Who has made the lock that is there now: the one of an asker may be gone, and this one somebody else's.
        lock = lockfile.identity(self._root.entry(name) / xla.LOCK)
        placement = self._placer.place(name, staged, asker_holds_lock=lock in holders)
        if placement is Placement.ALREADY_READY:
            fsops.remove_tree(staged)
        return placement

    def _count(self, name: ModuleName, placement: Placement, entry: _Copy) -> None:
        log.info("%s from %s: %s, %d bytes", name, entry.source, placement.value, entry.size_bytes)
        if placement is Placement.PLACED:
            self._on_placed(name)  # its events may come late: it was not watched before it was there
            self._problems.over("cannot-share", subject=name.namespace)
            self._metrics.fetched_entries.labels(entry.source).inc()
            self._metrics.fetched_bytes.labels(entry.source).inc(entry.size_bytes)

    async def _in_worker(self, work: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work, *args)


class _Gone(Exception):
    """The remote no longer holds what its listing said."""
