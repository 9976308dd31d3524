"""One download under way, and everything that askers want to know of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from neff.keys import LockId, ModuleName
from neffd.fetch.pace import LONGEST_WAIT_S

# The status document must fit into one line of the local protocol, and thousands may wait for their turn.
_SHOWN = 100


@dataclass(frozen=True)
class Answer:
    """The final word on one key: ready (from `source`), or absent because of `reason`.

    `compile_s` is what a fetched entry would have cost to compile, where that is known; `text` says more of the reason,
    in one printable line.
    """

    ready: bool
    reason: str = ""
    source: str = ""
    compile_s: float | None = None
    text: str = ""


READY_HERE = Answer(True, source="local")


@dataclass
class Meter:
    """Counts the bytes of all flights."""

    moved_bytes: int = 0


@dataclass
class Flight:
    """The fetch of one entry.

    `found` is set once a remote is known to hold it; `holders` are askers that have made the entry's lock, and which
    lock that is; a flight is urgent as soon as a trainer waits for it. It is worth waiting for `give_up_s` in all, and
    the rest takes `left_s` more as it moves now, where that can be told.
    """

    name: ModuleName
    began_at: float
    outcome: asyncio.Future[Answer]
    found: bool = False
    is_urgent: bool = False
    remote: str = ""
    own_bytes: int = 0
    signs: int = 0  # that something moved for it, where no byte of its own did
    total_bytes: int = 0
    give_up_s: float = LONGEST_WAIT_S
    left_s: float | None = None
    holders: dict[int, LockId] = field(default_factory=dict)
    line: Meter = field(default_factory=Meter)

    def __post_init__(self) -> None:
        self._queued_from_bytes = self.line.moved_bytes
        self._queued_bytes: int | None = None

    def begin(self, total_bytes: int) -> None:
        """Its turn has come."""
        if self._queued_bytes is None:
            self._queued_bytes = self.queued_bytes
        self.total_bytes = total_bytes

    @property
    def has_begun(self) -> bool:
        """Whether its turn has come."""
        return self._queued_bytes is not None

    @property
    def queued_bytes(self) -> int:
        """What others moved while this one waited for its turn, so that an asker in the queue sees progress too."""
        if self._queued_bytes is not None:
            return self._queued_bytes
        return max(0, self.line.moved_bytes - self._queued_from_bytes - self.own_bytes)

    @property
    def done_bytes(self) -> int:
        """Grows as long as anything moves on behalf of this flight."""
        return self.queued_bytes + self.own_bytes + self.signs


class Flights:
    """Single flight: at most one fetch of an entry in one cache directory."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: dict[ModuleName, Flight] = {}
        self._line = Meter()

    def join(self, name: ModuleName) -> tuple[Flight, bool]:
        """The flight for `name`, and whether it is new: then the caller has to start it."""
        flight = self._open.get(name)
        if flight is not None:
            return flight, False
        flight = Flight(name, self._clock(), asyncio.get_running_loop().create_future(), line=self._line)
        self._open[name] = flight
        return flight, True

    def land(self, flight: Flight, answer: Answer) -> None:
        """Tell everybody who waits, and let the next question start afresh."""
        if self._open.get(flight.name) is flight:
            del self._open[flight.name]
        if not flight.outcome.done():
            flight.outcome.set_result(answer)

    def moved(self, flight: Flight, count: int) -> None:
        """Note `count` bytes of `flight`; from any thread, since a lost update only makes progress look smaller."""
        flight.own_bytes += count
        self._line.moved_bytes += count

    def alive(self, flight: Flight) -> None:
        """Note that something moves for `flight`, though none of its bytes; from any thread."""
        flight.signs += 1

    def under_way(self) -> list[Flight]:
        """Flights that a remote was found for."""
        return [flight for flight in self._open.values() if flight.found]

    def __len__(self) -> int:
        return len(self._open)


def fetching_status(flights: Iterable[Flight], now_s: float) -> dict[str, Any]:
    """The part of the status document: those whose turn has come before those that wait for it, and how many in all."""
    in_order = sorted(flights, key=lambda flight: not flight.has_begun)
    rows = [
        {
            "name": str(flight.name),
            "remote": flight.remote,
            "done_bytes": flight.own_bytes,
            "total_bytes": flight.total_bytes,
            "since_s": round(now_s - flight.began_at, 1),
        }
        for flight in in_order[:_SHOWN]
    ]
    return {"fetching": rows, "fetching_count": len(in_order)}
