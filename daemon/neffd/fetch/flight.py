"""One download under way, and everything that askers want to know of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from neff.keys import ModuleName

# Nobody waits longer than this for an entry whose compile time is unknown.
LONGEST_WAIT_S = 600.0


@dataclass(frozen=True)
class Answer:
    """The final word on one key: ready (from `source`), or absent because of `reason`."""

    ready: bool
    reason: str = ""
    source: str = ""


READY_HERE = Answer(True, source="local")


@dataclass
class Flight:
    """The fetch of one entry.

    `found` is set once a remote is known to hold it; `holders` are askers that have made the entry's lock.
    `queued_bytes` is what other flights moved while this one waited for its turn, so that an asker in the queue sees
    progress too.
    """

    name: ModuleName
    began_at: float
    outcome: asyncio.Future[Answer]
    found: bool = False
    remote: str = ""
    queued_bytes: int = 0
    own_bytes: int = 0
    total_bytes: int = 0
    give_up_s: float = LONGEST_WAIT_S
    holders: set[int] = field(default_factory=set)

    @property
    def done_bytes(self) -> int:
        """Grows as long as anything moves on behalf of this flight."""
        return self.queued_bytes + self.own_bytes


class Flights:
    """Single flight: at most one fetch of an entry in one cache directory."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: dict[ModuleName, Flight] = {}

    def join(self, name: ModuleName) -> tuple[Flight, bool]:
        """The flight for `name`, and whether it is new: then the caller has to start it."""
        flight = self._open.get(name)
        if flight is not None:
            return flight, False
        flight = Flight(name, self._clock(), asyncio.get_running_loop().create_future())
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
        for other in list(self._open.values()):
            if other.found and not other.total_bytes:
                other.queued_bytes += count

    def under_way(self) -> list[Flight]:
        """Flights that a remote was found for."""
        return [flight for flight in self._open.values() if flight.found]

    def __len__(self) -> int:
        return len(self._open)
