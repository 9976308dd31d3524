"""What a remote tells of an entry that it brings: whether it still moves, and when it is its turn."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from pathlib import Path

from neff.keys import ModuleName
from neffd.fetch import pace
from neffd.fetch.flight import Flight, Flights
from neffd.fetch.pace import Pace
from neffd.layouts import xla
from neffd.remotes.base import RemoteEntry
from neffd.slots import Line


class Watching:
    """One flight's view of one transfer; see `neffd.remotes.base.Watcher`.

    Use it as a context: what it holds of the line is given back at the end.

    Args:
        stall_s: how long nothing may move once it is the flight's turn.
        describe_s: how long the remote may need to say what the entry is.
        worth_s: how long compiling an entry takes, by its name, the size of its NEFF, and what it says itself; None
        where nobody knows.
        on_moved: called when bytes arrived, from any thread.
        nearby: where else on this host a file of the entry lies.
        reserve: keeps that many bytes of the disk while inside.
    """

    def __init__(
        self,
        flight: Flight,
        flights: Flights,
        line: Line,
        clock: Callable[[], float],
        *,
        stall_s: float,
        describe_s: float,
        worth_s: Callable[[ModuleName, int, float | None], float | None] = lambda name, size, stated_s: stated_s,
        on_moved: Callable[[], None] = lambda: None,
        nearby: Callable[[str], Path | None] = lambda file: None,
        reserve: Callable[[int], AbstractAsyncContextManager[None]] = lambda size_bytes: nullcontext(),
    ) -> None:
        self._flight = flight
        self._flights = flights
        self._line = line
        self._clock = clock
        self._stall_s = stall_s
        self._describe_s = describe_s
        self._worth_s = worth_s
        self._on_moved = on_moved
        self._nearby = nearby
        self._reserve = reserve
        self._held = AsyncExitStack()
        self._due_at: float | None = clock() + describe_s
        self._seen_bytes = 0
        self._pace: Pace | None = None
        flight.own_bytes, flight.left_s = 0, None

    @property
    def is_urgent(self) -> bool:
        return self._flight.is_urgent

    def nearby(self, file: str) -> Path | None:
        """See `Watcher.nearby`."""
        return self._nearby(file)

    async def turn(self, entry: RemoteEntry) -> None:
        """See `Watcher.turn`."""
        stated_s = entry.provenance.compile_s if entry.provenance is not None else None
        neff_bytes = sum(file.size_bytes for file in entry.files if file.name == xla.NEFF)
        worth_s = self._worth_s(entry.name, neff_bytes, stated_s)
        self._flight.give_up_s = pace.limit_s(worth_s, min(pace.SHORTEST_WAIT_S, self._stall_s))
        self._due_at = None
        await self._held.enter_async_context(self._line.hold(self._flight, entry.size_bytes))
        await self._held.enter_async_context(self._reserve(entry.size_bytes))
        self._due_at = self._clock() + self._stall_s
        self._flight.begin(entry.size_bytes)
        self._seen_bytes = self._flight.done_bytes
        self._pace = Pace(self._flight.give_up_s, self._clock(), self._flight.own_bytes)

    def moved(self, count: int) -> None:
        """See `Watcher.moved`."""
        self._flights.moved(self._flight, count)
        self._on_moved()

    def alive(self) -> None:
        """See `Watcher.alive`."""
        self._flights.alive(self._flight)
        self._on_moved()

    def overdue(self) -> str | None:
        """Why this should be given up now; to be asked now and then. What is left is looked at, too."""
        flight = self._flight
        if self._pace is not None:
            flight.left_s = self._pace.left_s(self._clock(), flight.own_bytes, flight.total_bytes)
        if self._due_at is None or (flight.has_begun and flight.own_bytes >= flight.total_bytes):
            return None  # it waits for its turn, or for the disk
        if flight.has_begun and flight.done_bytes != self._seen_bytes:
            self._seen_bytes = flight.done_bytes
            self._due_at = self._clock() + self._stall_s
        if self._clock() <= self._due_at:
            return None
        return f"no byte in {self._stall_s:g} s" if flight.has_begun else f"no word in {self._describe_s:g} s"

    async def __aenter__(self) -> Watching:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._flight.left_s = None
        await self._held.aclose()
