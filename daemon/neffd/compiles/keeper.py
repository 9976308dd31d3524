"""The locks of all cache directories: who holds them, who waits, and what becomes of one whose maker is gone.

The shell around `board.Board`: pidfds, lock files, the ledger. A process that makes a lock says so, and its death is
proven by its pidfd; nothing else is proof. Waiters are woken by what the makers and the watch say, and look for
themselves now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from neff.keys import LockId, ModuleName
from neff.protocol import FREE, READY
from neffd.compiles import lockfile, processes
from neffd.compiles.board import Board, Holder, Place, Program, Waiter
from neffd.compiles.ledger import Held, Ledger, Seen
from neffd.compiles.stale import StaleLocks
from neffd.compiles.usual import Usual
from neffd.layouts import xla
from neffd.store.index import boot_id
from neffd.store.root import CacheRoot
from neffd.tasks import Wake

log = logging.getLogger(__name__)
_T = TypeVar("_T")

_GATHER_S = 0.2  # locks that are held for less never reach the disk
_AFTER_TROUBLE_S = 5.0
_SWEEP_S = 5.0
_LOOK_EVERY_S = 0.2
# A lock held for less was a look at an entry that somebody else had made.
_SHORTEST_COMPILE_S = 0.5
# In which the start of a process is told.
_TICK_S = 0.05
# So many ends of locks are kept that were seen before they were told.
_MOST_UNTOLD = 1_000
_SHOWN = 100
_AT_WORK = 8


@dataclass(frozen=True)
class Directory:
    """What the keeper needs of one cache directory.

    `locked` gives the entries that the last scan or event found locked; `nudge` has kept-out fetches tried again.
    """

    root: CacheRoot
    locked: Callable[[], Collection[ModuleName]]
    nudge: Callable[[], None]

    def lock(self, name: ModuleName) -> Path:
        return self.root.entry(name) / xla.LOCK


class Keeper:
    """Knows the locks of `directories`, by the path of each.

    Args:
        is_own_lock: whether the daemon itself has made a lock file.
        workers: threads for what blocks.
        on_compiled: told of every compile that ended well: place, pid, uid, seconds where they were measured.
        usual: told of every compile that was measured, too.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        directories: Mapping[str, Directory],
        board: Board,
        ledger: Ledger,
        stale: StaleLocks,
        workers: Executor,
        *,
        is_own_lock: Callable[[Path], bool],
        on_compiled: Callable[[Place, int, int, float | None], None] = lambda place, pid, uid, seconds: None,
        usual: Usual | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directories = directories
        self._board = board
        self._ledger = ledger
        self._stale = stale
        self._workers = workers
        self._is_own_lock = is_own_lock
        self._on_compiled = on_compiled
        self._clock = clock
        self._usual = Usual() if usual is None else usual
        self._watched = processes.Watched(self._ended)
        self._boot_id = boot_id()
        self._pid_space = processes.pid_space()
        self._looked: dict[Place, float] = {}  # when its lock was last seen
        self._unknown: dict[Place, LockId] = {}
        # And how long each was held; of one place there may be several.
        self._untold: OrderedDict[tuple[Place, LockId], tuple[Holder, float]] = OrderedDict()
        self._changed = Wake()
        stale.on_gone = self._is_no_more

    async def run(self) -> None:
        """Until cancelled: find again who held locks before, write down who does, look after the rest."""
        try:
            while not await self._restored():  # noqa: ASYNC110, a full disk tells nobody when it is over
                await asyncio.sleep(_AFTER_TROUBLE_S)
            next_sweep_at = self._clock()
            while True:
                if self._clock() >= next_sweep_at:
                    await self._sweep()
                    next_sweep_at = self._clock() + _SWEEP_S
                await self._changed.wait(next_sweep_at - self._clock())
                await asyncio.sleep(_GATHER_S)
                await self._write_down()
        finally:
            self._watched.close()
            with contextlib.suppress(OSError, sqlite3.Error):
                await asyncio.shield(self._ledger.flush())

    def greeted(self, pid: int, program: Program | None) -> None:
        """A process is this program now: one that it was before is gone, and left its locks behind."""
        for place in self._board.replaced(pid, program) if program is not None else ():
            self._clear(place, f"its maker, process {pid}, has replaced itself by another program")

    def took(
        self,
        place: Place,
        lock: LockId,
        *,
        pid: int,
        uid: int,
        connection: int,
        program: Program | None = None,
        at_s: float | None = None,
    ) -> None:
        """A process says that it made a lock, at `at_s` of the machine's monotonic clock.

        Believed where the file is that one, and of the process's user.
        """
        path = self._path(place)
        lock = LockId(lock.inode & lockfile.MOST, lock.ctime_ns)
        if lockfile.made_by(path, uid) != lock:
            return
        known = self._board.holder(place)
        if known is None:
            self._stale.forget(place)  # whatever was said, it was of another lock
        elif known.lock != lock:
            self._gone(place)  # who held that one may not have told yet that it is gone
        pid = pid if self._watched.add(pid) else 0
        since, is_measured = self._since(place, lock, pid, at_s)
        self._board.took(place, Holder(pid, uid, lock, since, connection, program=program, is_measured=is_measured))
        space = self._pid_space if pid else None
        held = Held(pid, uid, processes.start_time(pid) if pid else None, space, self._boot_id, lock)
        self._ledger.held(place, held)
        self._changed.set()

    def _since(self, place: Place, lock: LockId, pid: int, at_s: float | None) -> tuple[float, bool]:
        """When a lock was made, on our clock; and whether that was measured, so that a compile's time may be told.

        The lock's own date is the wall clock's, which jumps, or that of a file server, which may be another one.
        """
        known, age_s = self._board.holder(place), processes.age_s(pid)
        if known is not None and known.lock == lock and (known.is_measured or at_s is None):
            return known.since, known.is_measured
        # Not before the process was there: with a clock of its own (a time namespace), or just said so.
        if at_s is not None and age_s is not None and 0 <= self._clock() - at_s <= age_s + _TICK_S:
            return at_s, True
        return self._clock() - lockfile.age_s(lock), lockfile.is_new(lock)

    def released(self, place: Place, lock: LockId) -> None:
        """The process that made a lock says that it is gone; we may have seen that before we hear it."""
        lock, path = LockId(lock.inode & lockfile.MOST, lock.ctime_ns), self._path(place)
        holder = self._board.holder(place)
        if holder is not None and holder.lock == lock:
            if lockfile.identity(path) == lock or lockfile.is_hidden(path):
                return  # says who?
            self._gone(place)
        untold = self._untold.pop((place, lock), None)
        if untold is not None:
            self._note_compile(place, *untold)

    def _note_compile(self, place: Place, holder: Holder, held_s: float) -> None:
        neff = self._directories[place.root].root.ready_neff(place.name)
        if held_s < _SHORTEST_COMPILE_S or neff is None:
            return
        if holder.is_measured:
            self._usual.note(place.name, held_s, neff.size_bytes)
        self._on_compiled(place, holder.pid, holder.uid, held_s if holder.is_measured else None)

    def unlocked(self, place: Place) -> None:
        """A lock file came or went."""
        path = self._path(place)
        if lockfile.identity(path) is None and not lockfile.is_hidden(path):
            self._gone(place)

    def disconnected(self, connection: int) -> None:
        """A connection ended, which proves nothing: its process may live on and come back."""
        self._board.disconnected(connection)

    def wait(self, place: Place, uid: int, wake: Callable[[], None]) -> Waiter:
        """Enter a waiter; raises board.TooManyWaiters."""
        return self._board.wait(place, uid, wake)

    def leave(self, waiter: Waiter) -> None:
        """A waiter is gone."""
        self._board.leave(waiter)

    def look(self, place: Place) -> str | None:
        """READY or FREE once the lock is gone, None while it is there. Waiters of one entry share a look."""
        now = self._clock()
        if now - self._looked.get(place, float("-inf")) < _LOOK_EVERY_S:
            return None
        if lockfile.identity(self._path(place)) is not None:
            self._looked[place] = now
            return None
        self._looked.pop(place, None)
        return READY if self._directories[place.root].root.is_ready(place.name) else FREE

    def facts(self, place: Place) -> dict[str, Any]:
        """Who compiles this entry, since when, how long it usually takes, how many wait."""
        holder = self._board.holder(place)
        usually_s = self._usual.of(place.name)
        facts: dict[str, Any] = {
            "holder": "unknown",
            "pid": None,
            "uid": None,
            "since_s": None,
            "usually_s": None if usually_s is None else round(usually_s, 1),
            "waiting": self._board.waiting(place),
        }
        if holder is not None:
            age_s = round(self._board.age_s(holder), 1)
            facts |= {"holder": "process", "pid": holder.pid or None, "uid": holder.uid, "since_s": age_s}
            if holder.is_gone:
                facts |= {"holder": "gone", "at_work": self._stale.at_work(place)[:_AT_WORK]}
            return facts
        if self._is_own_lock(self._path(place)):
            return facts | {"holder": "neffd"}
        lock = self._unknown.get(place) or lockfile.identity(self._path(place))
        facts |= {"abandoned": self._stale.is_abandoned(place)}
        return facts if lock is None else facts | {"since_s": round(lockfile.age_s(lock), 1)}

    def status(self) -> list[dict[str, Any]]:
        """Who compiles what, for the status document: what is waited for first, then the longest."""
        places = set(self._board.places()) | set(self._unknown)
        rows = [{"name": str(place.name), "root": place.root, **self.facts(place)} for place in places]
        rows.sort(key=lambda row: (-row["waiting"], -(row["since_s"] or 0.0)))
        return rows[:_SHOWN]

    def _ended(self, pid: int) -> None:
        """Proof that a process is gone."""
        for place in self._board.died(pid):
            self._clear(place, f"its maker, process {pid}, is gone")

    def _clear(self, place: Place, proof: str) -> None:
        """Its holder is no more, proven."""
        holder = self._board.holder(place)
        if holder is not None:
            self._stale.clear(place, self._path(place), holder.lock, proof)

    def _is_no_more(self, place: Place, lock: LockId) -> None:
        """That lock is gone; another one may have its place, and its holder have told us before we heard of this."""
        holder = self._board.holder(place)
        if holder is None or holder.lock == lock:
            self._gone(place)

    def _gone(self, place: Place) -> None:
        """The lock is gone: forget it, wake its waiters, let a kept-out fetch in."""
        self._looked.pop(place, None)
        self._unknown.pop(place, None)
        self._ledger.held(place, None)
        self._ledger.seen(place, None)
        self._stale.forget(place)
        self._changed.set()
        holder = self._board.released(place)
        if holder is None:
            self._board.wake(place)
        else:
            self._keep_untold(place, holder)
            if not self._board.holds_any(holder.pid):
                self._watched.drop(holder.pid)
        self._directories[place.root].nudge()

    def _keep_untold(self, place: Place, holder: Holder) -> None:
        self._untold[place, holder.lock] = holder, self._board.age_s(holder)
        if len(self._untold) > _MOST_UNTOLD:
            self._untold.popitem(last=False)

    async def _restored(self) -> bool:
        """Find again those who held locks when the daemon ended; false where the database cannot be read now."""
        try:
            held, seen, compiles = await self._in_worker(self._ledger.load)
        except (OSError, sqlite3.Error) as error:
            log.warning("who held which lock cannot be read: %s", error)
            return False
        self._usual.load(compiles)
        for place, kept in held.items():
            if place.root not in self._directories or self._board.holder(place) is not None:
                continue
            if lockfile.identity(self._path(place)) != kept.lock:
                self._ledger.held(place, None)
                continue
            self._find_again(place, kept)
        for place, sighting in seen.items():
            if place.root in self._directories and sighting.boot_id != self._boot_id:
                path = self._path(place)
                if await self._in_worker(lockfile.is_on_local_disk, Path(place.root)):
                    self._stale.clear(place, path, sighting.lock, "it was there before this machine's last start")
        return True

    def _find_again(self, place: Place, kept: Held) -> None:
        is_same_boot = kept.boot_id == self._boot_id
        is_visible = is_same_boot and kept.pid_space is not None and kept.pid_space == self._pid_space
        since = self._clock() - lockfile.age_s(kept.lock)
        holder = Holder(kept.pid if is_visible else 0, kept.uid, kept.lock, since)
        self._board.took(place, holder)
        if not is_same_boot:
            holder.is_gone = True
            self._stale.clear(place, self._path(place), kept.lock, "it was made before this machine's last start")
        elif is_visible and self._watched.add(kept.pid):
            started = processes.start_time(kept.pid)
            if None not in (started, kept.start_time) and started != kept.start_time:
                self._watched.drop(kept.pid)  # another process has its number now
                self._ended(kept.pid)
        elif is_visible:
            holder.pid = 0

    async def _sweep(self) -> None:
        """Locks that nobody told us of, and locks whose end nobody told us of."""
        places = {Place(root, name) for root, found in self._directories.items() for name in found.locked()}
        places |= set(self._board.places()) | self._ledger.seen_places
        places = {place for place in places if place.root in self._directories}
        locks = await self._in_worker(self._identities, places)
        for place, lock in locks.items():
            holder = self._board.holder(place)
            if lock is None or (holder is not None and holder.lock != lock):
                is_noted = holder is not None or place in self._unknown or place in self._ledger.seen_places
                # Once more, since others went on while all of them were looked at.
                now = lockfile.identity(self._path(place)) if is_noted else None
                if is_noted and (now is None or (holder is not None and holder.lock != now)):
                    self._gone(place)
            elif holder is not None and holder.is_gone:
                self._stale.clear(place, self._path(place), lock, "its maker is gone")
        unknown = {place: lock for place, lock in locks.items() if lock is not None and self._is_unknown(place)}
        self._unknown = unknown
        for place, lock in unknown.items():
            self._ledger.seen(place, Seen(lock, self._boot_id))
        self._changed.set()
        limits = {place: self._usual.of(place.name) for place in unknown}
        await self._stale.report({p: (self._path(p), lock, limits[p]) for p, lock in unknown.items()})

    def _is_unknown(self, place: Place) -> bool:
        """Whether nobody can say that the maker of a lock lives, or that it is gone."""
        holder = self._board.holder(place)
        if holder is None:
            return not self._is_own_lock(self._path(place))
        return not holder.is_gone and not holder.pid and holder.connection is None

    def _identities(self, places: Iterable[Place]) -> dict[Place, LockId | None]:
        seen = {place: lockfile.identity(self._path(place)) for place in places}
        # What we may not look at is not gone.
        return {place: lock for place, lock in seen.items() if lock or not lockfile.is_hidden(self._path(place))}

    async def _write_down(self) -> None:
        if not self._ledger.is_dirty:
            return
        try:
            await self._ledger.flush()
        except (OSError, sqlite3.Error) as error:
            log.warning("who holds which lock cannot be written down: %s", error)
            self._changed.set()
            await asyncio.sleep(_AFTER_TROUBLE_S)

    def _path(self, place: Place) -> Path:
        return self._directories[place.root].lock(place.name)

    async def _in_worker(self, work: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work, *args)
