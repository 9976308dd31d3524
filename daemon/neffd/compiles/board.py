"""Who holds the lock of which entry, and who waits for it. A plain object with an injected clock; no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from neff.keys import LockId, ModuleName


class Place(NamedTuple):
    """One entry of one managed cache directory."""

    root: str
    name: ModuleName


class Program(NamedTuple):
    """Which program a process was, and when (its clock, in ns): by `exec` another takes its place, and its pid."""

    number: int
    at_ns: int

    def has_replaced(self, earlier: Program | None) -> bool:
        """Whether a process that was `earlier` is this one now, and not the other way round."""
        return earlier is not None and self.number != earlier.number and self.at_ns > earlier.at_ns


@dataclass
class Holder:
    """The process that said it made a lock.

    `since` is on the board's clock, and from the lock's own date unless `is_measured`; `pid` is 0 where the process
    cannot be seen. `is_gone` is set with proof only; `connection` is what the process is connected by, None once that
    has ended (which proves nothing).
    """

    pid: int
    uid: int
    lock: LockId
    since: float
    connection: int | None = None
    is_gone: bool = False
    program: Program | None = None
    is_measured: bool = False


@dataclass(eq=False)
class Waiter:
    """One caller that waits for the lock of `place`; `wake` is called when it is worth looking."""

    place: Place
    uid: int
    wake: Callable[[], None]


class TooManyWaiters(Exception):
    """This uid has as many waiters as it may have."""


@dataclass
class _Entry:
    holder: Holder | None = None
    waiters: set[Waiter] = field(default_factory=set)

    @property
    def is_idle(self) -> bool:
        return self.holder is None and not self.waiters


class Board:
    """The table of held locks and waiters.

    Args:
        max_waiters_per_uid: more than that are sent away.
        clock: monotonic seconds.
    """

    def __init__(self, max_waiters_per_uid: int, clock: Callable[[], float]) -> None:
        self._max_waiters_per_uid = max_waiters_per_uid
        self._clock = clock
        self._entries: dict[Place, _Entry] = {}
        self._waiters_of: Counter[int] = Counter()

    def took(self, place: Place, holder: Holder) -> None:
        """A process made the lock; what was known of an earlier one is over."""
        self._entries.setdefault(place, _Entry()).holder = holder

    def released(self, place: Place) -> Holder | None:
        """The lock is gone: forget its holder, who is returned, and wake those who wait."""
        entry = self._entries.get(place)
        if entry is None:
            return None
        holder, entry.holder = entry.holder, None
        self._tidy(place, entry)
        self.wake(place)
        return holder

    def disconnected(self, connection: int) -> None:
        """A connection ended: its locks are held by their processes all the same."""
        for _, holder in self.held():
            if holder.connection == connection:
                holder.connection = None

    def died(self, pid: int) -> list[Place]:
        """The process `pid` is gone, proven: mark its locks, and return where they are."""
        places = [place for place, holder in self.held() if holder.pid == pid]
        for place in places:
            self._entries[place].holder.is_gone = True  # type: ignore[union-attr]
        return places

    def replaced(self, pid: int, program: Program) -> list[Place]:
        """The process `pid` is this program now: mark the locks of those that it was, and return where they are."""
        places = [
            place for place, holder in self.held() if holder.pid == pid > 0 and program.has_replaced(holder.program)
        ]
        for place in places:
            self._entries[place].holder.is_gone = True  # type: ignore[union-attr]
        return places

    def holder(self, place: Place) -> Holder | None:
        """Who made the lock, where that is known."""
        entry = self._entries.get(place)
        return None if entry is None else entry.holder

    def held(self) -> Iterator[tuple[Place, Holder]]:
        """All known holders; the board may change while this is read."""
        for place, entry in list(self._entries.items()):
            if entry.holder is not None:
                yield place, entry.holder

    def holds_any(self, pid: int) -> bool:
        """Whether a process holds a lock."""
        return any(holder.pid == pid for _, holder in self.held())

    def wait(self, place: Place, uid: int, wake: Callable[[], None]) -> Waiter:
        """Enter one waiter; raises TooManyWaiters."""
        if self._waiters_of[uid] >= self._max_waiters_per_uid:
            raise TooManyWaiters
        waiter = Waiter(place, uid, wake)
        self._entries.setdefault(place, _Entry()).waiters.add(waiter)
        self._waiters_of[uid] += 1
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """A waiter goes, for whatever reason; a no-op if it has gone already."""
        entry = self._entries.get(waiter.place)
        if entry is None or waiter not in entry.waiters:
            return
        entry.waiters.discard(waiter)
        self._waiters_of[waiter.uid] -= 1
        if not self._waiters_of[waiter.uid]:
            del self._waiters_of[waiter.uid]
        self._tidy(waiter.place, entry)

    def wake(self, place: Place) -> None:
        """Something about this lock may have changed."""
        entry = self._entries.get(place)
        for waiter in list(entry.waiters) if entry is not None else ():
            waiter.wake()

    def waiting(self, place: Place) -> int:
        """How many wait for one lock."""
        entry = self._entries.get(place)
        return 0 if entry is None else len(entry.waiters)

    def places(self) -> list[Place]:
        """Every entry that somebody holds or waits for."""
        return list(self._entries)

    def age_s(self, holder: Holder) -> float:
        """For how long a lock has been held."""
        return max(0.0, self._clock() - holder.since)

    def _tidy(self, place: Place, entry: _Entry) -> None:
        if entry.is_idle:
            self._entries.pop(place, None)
