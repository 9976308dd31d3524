"""Finding the ready entries of one cache directory and handing them to the journal.

Three sources lead to a look at an entry: watchdog's hints, regular second looks at those that are not ready or not yet
settled, and scans (start, overflow, now and then). Every look is a fresh inspection; an event decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeVar

from neff import keys
from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.metrics import Metrics
from neffd.publish import receipt
from neffd.publish.audience import Audience
from neffd.publish.batch import Item
from neffd.publish.journal import Journal
from neffd.publish.lookout import Lookout
from neffd.publish.settle import Settling
from neffd.publish.states import States
from neffd.publish.survey import Seen, Survey
from neffd.publish.take import NotTaken, Trust, is_short, take
from neffd.publish.unreadable import Unreadable
from neffd.publish.watch import Watch
from neffd.retry import Backoff
from neffd.serve.status import Problems
from neffd.store.index import LOCAL, Index, Known
from neffd.store.root import CacheRoot, FileFacts, Inspection
from neffd.store.sharing import CannotShare
from neffd.tasks import Wake

log = logging.getLogger(__name__)
_T = TypeVar("_T")

_SHORTEST_PAUSE_S = 0.05
_MORE_EVENTS = "sysctl fs.inotify.max_queued_events=65536"
# Up to 2.14 the NEFF is its own mark: one that is shorter than its header says gets this much longer.
_SHORT_NEFF_EXTRA_S = 60.0
# Others have their turn on the event loop in between, and memory is needed for so many looks at once.
_STRIDE = 500


class Collector:
    """Watches one cache directory and journals what was made there.

    Attributes:
        busy_since: when the present piece of work of a worker thread began, by the clock; None while there is nothing
            to do.
    """

    def __init__(
        self,
        root: CacheRoot,
        known: Index,
        journal: Journal,
        metrics: Metrics,
        workers: Executor,
        *,
        audience: Callable[[], Audience],
        trust: Trust,
        settle_s: float,
        scan_s: float,
        on_taken: Callable[[ModuleName, Item, Collection[str]], None],
        on_unlocked: Callable[[ModuleName], None] = lambda name: None,
        on_namespace: Callable[[str], None] = lambda namespace: None,
        on_look: Callable[[ModuleName, Inspection], None] = lambda name, looks: None,
        on_scanned: Callable[[Collection[ModuleName]], None] = lambda names: None,
        compile_s: Callable[[ModuleName, FileFacts], float | None] = lambda name, neff: None,
        on_new_root: Callable[[], None] = lambda: None,
        problems: Problems | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._index = known
        self._journal = journal
        self._metrics = metrics
        self._workers = workers
        self._audience = audience
        self._trust = trust
        self._scan_s = scan_s
        self._on_taken = on_taken
        self._on_unlocked = on_unlocked
        self._on_namespace = on_namespace
        self._on_look = on_look
        self._on_scanned = on_scanned
        self._compile_s = compile_s
        self._problems = problems or Problems(str(root.path))
        self._clock = clock
        self._settling = Settling(settle_s, clock)
        self._given_up: dict[ModuleName, Inspection] = {}
        self._failing: dict[ModuleName, int] = {}  # and which failure was its last
        self._failures = itertools.count(1)
        self._has_lost_events = False
        self._storage = Backoff(1.0, 60.0, clock)
        self._unreadable = Unreadable(root, self._problems)
        self._hints: set[ModuleName] = set()
        self._wake = Wake()
        self._gone: set[Path] = set()
        self._scan_due = "start"
        self._scan_took_s = 0.0
        self._scan_ended_at = clock()
        self.busy_since: float | None = None
        self._asked: list[asyncio.Future[None]] = []
        self._loop = asyncio.get_running_loop()
        self._watch = Watch(self._on_change, self._on_lost)
        self._survey = Survey(root, known, self._watch)
        self._lookout = Lookout(root, self._watch, self._in_worker, self._problems, clock, on_new_root)
        self._states = States()
        self.counts = self._states.counts

    async def run(self) -> None:
        """Watch and collect until cancelled."""
        try:
            while True:
                asked, self._asked = self._asked, []
                await self._pass()
                self.busy_since = None
                for done in asked:
                    if not done.done():
                        done.set_result(None)
                await self._wake.wait(self._pause_s())
        finally:
            await asyncio.shield(self._in_worker(self._watch.stop))

    async def _pass(self) -> None:
        """Scan if it is time, and look at what is due; a full disk or an unreadable directory postpones it."""
        try:
            if self._gone:
                await self._in_worker(self._forget_gone)
            why = await self._lookout.look()
            self._scan_due = self._scan_due or why or ("periodic" if self._next_scan_in_s <= 0 else "")
            if self._scan_due and self._storage.wait_s == 0:
                await self.scan(self._scan_due)
            if not self._scan_due:
                await self._look_at_due()
        except (OSError, sqlite3.Error) as error:
            self._storage_failed(error)

    def _pause_s(self) -> float:
        if self._scan_due:
            return max(_SHORTEST_PAUSE_S, self._storage.wait_s)
        waits_s = [self._next_scan_in_s, self._lookout.due_in_s]
        if self._settling.due_in_s is not None:
            waits_s.append(self._settling.due_in_s)
        return max(_SHORTEST_PAUSE_S, min(waits_s))

    @property
    def _next_scan_in_s(self) -> float:
        pause_s = self._lookout.scan_pause_s(self._scan_s, self._scan_took_s)
        return self._scan_ended_at + pause_s - self._clock()

    @property
    def settling(self) -> int:
        """Ready entries that are not in the journal yet."""
        return self._settling.ready_count

    @property
    def is_blind(self) -> bool:
        """Whether there may be more to send: the directory could not be looked through."""
        return bool(self._scan_due and self._storage.failures) and not self._audience().is_nobody

    def locked(self) -> list[ModuleName]:
        """Entries that carried a lock when they were last looked at."""
        return self._states.locked()

    def is_settling(self, name: ModuleName) -> bool:
        """Whether an entry is ready and on its way into the journal."""
        return self._settling.is_ready(name)

    async def scan_now(self) -> None:
        """Scan, and look at what was found, before this returns."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._asked.append(done)
        self.scan_soon("asked")
        await done

    def look_soon(self, name: ModuleName) -> None:
        """Ask for a look at one entry."""
        self._hints.add(name)
        self._wake.set()

    def scan_soon(self, why: str) -> None:
        """Ask for a scan."""
        self._scan_due = why
        self._wake.set()

    async def scan(self, why: str) -> None:
        """Walk the directory once: the truth that events only hint at. Raises OSError and sqlite3.Error."""
        self._metrics.scans.labels(why).inc()
        self._scan_due = ""
        began = self._clock()
        has_lost_events, self._has_lost_events = self._has_lost_events, False
        try:
            names = await self._list(has_lost_events=has_lost_events)
            for namespace in {name.namespace for name in names}:
                self._on_namespace(namespace)
            self._states.keep_only(names)
            self._on_scanned(names)
            await self._look_at(list(names))
        except BaseException:
            self._scan_due = why
            self._has_lost_events |= has_lost_events
            raise
        self._scan_took_s, self._scan_ended_at = self._clock() - began, self._clock()
        self._unreadable.scan_ended()
        if has_lost_events and not self._has_lost_events:
            self._problems.over("events-lost")
        if self._storage.failures and not self._settling.ready_count:
            self._storage_works()

    async def _list(self, *, has_lost_events: bool) -> Collection[ModuleName]:
        """Every entry that is there."""
        for name in await self._in_worker(self._unreadable.scan_begins):
            self._take_up(name)
        listing = await self._in_worker(functools.partial(self._survey.list_all, has_lost_events=has_lost_events))
        for error in listing.closed:
            self._unreadable.met(error)
        for name, why in listing.torn.items():
            self._met_torn(name, why, await self._in_worker(self._root.inspect, name))
        if self._given_up:
            for name in self._given_up.keys() - set(listing.names):
                self._take_up(name)
        return listing.names

    def _met_torn(self, name: ModuleName, why: str, looks: Inspection) -> None:
        """It was removed where that is possible, and is at least not taken."""
        log.warning("%s did not survive a crash of the machine: %s", name, why)
        self._metrics.not_pushed.labels("torn").inc()
        self._given_up[name] = looks

    def _forget_gone(self) -> None:
        """What is gone may come again under the same name, and is then watched afresh."""
        gone, self._gone = self._gone, set()
        for path in gone:
            self._watch.drop(path)

    async def _look_at_due(self) -> None:
        hints, self._hints = self._hints, set()
        due = hints.union(self._settling.due())
        if self._storage.failures and self._storage.wait_s == 0:
            due.update(self._settling.ready())  # all together: one that fails must not have each try to itself
        try:
            await self._look_at(list(due))
        except BaseException:
            self._scan_due = "retry"  # finds again what the hints were about
            raise

    async def _look_at(self, names: Sequence[ModuleName]) -> None:
        if self._failing:  # last, and in turns: one that cannot be read must not keep those behind it waiting
            names = sorted(names, key=lambda name: self._failing.get(name, 0))
        for start in range(0, len(names), _STRIDE):
            audience = self._audience()
            look = functools.partial(self._survey.look_at, asking_index=not audience.is_nobody)
            for seen in await self._in_worker(look, names[start : start + _STRIDE]):
                await self._look(seen, audience)

    async def _look(self, seen: Seen, audience: Audience) -> None:
        name, looks, known, torn = seen
        if isinstance(looks, OSError):
            self._unreadable.met(looks)
            self._settling.saw(name, looks.errno, is_ready=False)
            return
        if torn is not None:
            self._met_torn(name, torn, looks)
        self._states.saw(name, looks)
        self._on_look(name, looks)
        if self._given_up.get(name, looks) != looks:
            self._take_up(name)
        if not looks.folder_exists:
            return await self._settled(name)
        neff = seen.neff
        if neff is None:
            if self._watch.has_room() and not self._watch.watches(self._root.entry(name)):
                await self._in_worker(self._watch.add_entry, self._root.entry(name))
            self._settling.saw(name, _fingerprint(looks), is_ready=False)
            return
        if not _is_wanted(audience, known, looks, neff) or self._given_up.get(name) == looks:
            return await self._settled(name)
        extra_s = 0.0
        if keys.ready_mark(name.namespace) == xla.NEFF and await self._in_worker(is_short, self._root, name, neff):
            extra_s = _SHORT_NEFF_EXTRA_S
        has_settled = self._settling.saw(name, _fingerprint(looks), is_ready=True, extra_s=extra_s)
        if has_settled and self._storage.wait_s == 0:
            await self._take(name, looks)

    async def _settled(self, name: ModuleName) -> None:
        self._failing.pop(name, None)
        self._settling.drop(name)
        if self._watch.has_entries and self._watch.watches(self._root.entry(name)):
            await self._in_worker(self._watch.drop, self._root.entry(name))

    def _storage_works(self) -> None:
        self._storage.succeeded()
        self._problems.over("disk")

    def _storage_failed(self, error: Exception) -> None:
        """Said without the file's name, which differs each time."""
        self._storage.failed()
        self._problems.note("disk", (error.strerror if isinstance(error, OSError) else None) or str(error), "")

    async def _take(self, name: ModuleName, looks: Inspection) -> None:
        try:
            taken = await self._in_worker(self._take_blocking, name, looks)
        except NotTaken as error:
            self._metrics.not_pushed.labels(error.reason).inc()
            if error.reason in ("untrusted-owner", "failed"):
                log.info("%s is not pushed: %s", name, error)
                await self._give_up(name, looks)
            if error.reason == "untrusted-owner":
                self._problems.note(
                    error.reason, f"{name}: {error}", "add its owner to upload.trusted_uids", subject=str(name)
                )
        except CannotShare as error:
            self._metrics.not_pushed.labels("cannot-read").inc()
            self._unreadable.given_up(name, error.detail, error.hint)
            await self._give_up(name, looks)
        except (OSError, sqlite3.Error) as error:  # a full disk, say: tried again after a while
            self._metrics.not_pushed.labels("disk").inc()
            self._failing[name] = next(self._failures)
            self._storage_failed(error)
        else:
            self._storage_works()
            if taken is not None:
                log.info("%s is in the journal", name)
                self._on_taken(
                    name, *taken
                )  # before it settles nowhere any more: who counts what waits never misses it
            await self._settled(name)

    def _take_blocking(self, name: ModuleName, looks: Inspection) -> tuple[Item, frozenset[str]] | None:
        """Take the entry unless the index, which knows what was fetched before it could be seen, says otherwise."""
        assert looks.neff is not None
        known = self._index.known(self._root.path, name)
        if not _is_wanted(self._audience(), known, looks, looks.neff):
            return None
        audience = self._audience().of(known, looks.neff)
        origin = known.origin if known is not None and known.is_same(looks.neff) else LOCAL
        taken = take(self._root, name, looks, self._trust, origin=origin, compile_s=self._compile_s(name, looks.neff))
        try:
            receipt.write(taken, audience, time.time())
            item = self._journal.insert_blocking(taken, audience)
        except BaseException as error:
            self._journal.failed(taken, error)
            raise
        return item, audience

    def _take_up(self, name: ModuleName) -> None:
        """It looks different, or is gone."""
        if self._given_up.pop(name, None) is not None:
            self._problems.over("untrusted-owner", subject=str(name))

    async def _give_up(self, name: ModuleName, looks: Inspection) -> None:
        """Until it looks different: asking again every half second would mend nothing."""
        self._given_up[name] = looks
        await self._settled(name)

    def _on_change(self, path: Path, is_gone: bool) -> None:
        """On a watchdog thread: hand the hint over to the loop."""
        with contextlib.suppress(RuntimeError):  # the loop has ended; so have we
            self._loop.call_soon_threadsafe(self._note_change, path, is_gone)

    def _on_lost(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._note_lost)

    def _note_lost(self) -> None:
        self._has_lost_events = True
        self._problems.note("events-lost", "the kernel dropped file events; a scan follows", _MORE_EVENTS)
        self.scan_soon("overflow")

    def _note_change(self, path: Path, is_gone: bool) -> None:
        if self._lookout.heard(path):
            return
        try:
            parts = path.relative_to(self._root.path).parts
        except ValueError:
            return
        if is_gone:
            self._gone.add(path)
        if not parts:
            if is_gone:
                self._lookout.root_is_gone()
        elif len(parts) == 1 and keys.is_namespace(parts[0]):
            # A namespace came or went; entries may be in it already.
            self._scan_due = "new-namespace"
        elif len(parts) >= 2 and keys.is_namespace(parts[0]) and keys.is_module_key(parts[1]):
            self._hints.add(ModuleName(parts[0], parts[1]))
            if parts[-1].endswith(xla.LOCK_SUFFIX):
                self._on_unlocked(ModuleName(parts[0], parts[1]))
        else:
            return
        self._wake.set()

    async def _in_worker(self, work: Callable[..., _T], *args: object) -> _T:
        self.busy_since = self._clock()
        return await self._loop.run_in_executor(self._workers, work, *args)


def _is_wanted(audience: Audience, known: Known | None, looks: Inspection, neff: FileFacts) -> bool:
    """Whether a ready entry has something that the journal has not seen and some remote should have."""
    if not audience.of(known, neff):
        return False
    if known is None or not known.is_same(neff) or not known.was_taken:
        return True
    return known.file_names is None or not looks.files.keys() <= known.file_names


def _fingerprint(looks: Inspection) -> tuple[object, ...]:
    return (looks.state, tuple(sorted(looks.files.items())))
