"""One flight's transfer: progress that askers see, its turn, and when it is given up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from neff.keys import ModuleName
from neffd.fetch.flight import Flight, Flights
from neffd.fetch.watching import Watching
from neffd.remotes.base import RemoteEntry, RemoteFile
from neffd.remotes.provenance import Provenance
from neffd.slots import Line
from neffd.tasks import Tasks
from tests.harness import entries
from tests.unit.clock import Clock

STALL_S, DESCRIBE_S = 5.0, 30.0


class Host:
    def __init__(self, most_bytes: int = 1_000) -> None:
        self.clock = Clock()
        self.flights = Flights(self.clock)
        self.line = Line(10, most_bytes)

    def flight(self, number: int) -> Flight:
        flight, _ = self.flights.join(entries.module(number))
        flight.is_urgent = True
        return flight

    def watching(self, flight: Flight, **more: Any) -> Watching:
        return Watching(flight, self.flights, self.line, self.clock, stall_s=STALL_S, describe_s=DESCRIBE_S, **more)


def entry(flight: Flight, size_bytes: int, compile_s: float | None = None) -> RemoteEntry:
    made = None if compile_s is None else Provenance({}, compile_s)
    return RemoteEntry(flight.name, (RemoteFile("model.neff", size_bytes),), provenance=made)


async def test_given_up_when_no_byte_comes() -> None:
    host = Host()
    flight = host.flight(1)
    async with host.watching(flight) as watching:
        host.clock.pass_s(DESCRIBE_S)
        assert watching.overdue() is None
        await watching.turn(entry(flight, 100))
        for _ in range(3):
            host.clock.pass_s(STALL_S)
            watching.moved(1)
            assert watching.overdue() is None
        host.clock.pass_s(STALL_S + 0.1)
        assert watching.overdue() == "no byte in 5 s"


async def test_given_up_when_the_remote_never_says_what_it_is() -> None:
    host = Host()
    watching = host.watching(host.flight(1))
    host.clock.pass_s(DESCRIBE_S + 0.1)
    assert watching.overdue() == "no word in 30 s"


async def test_all_bytes_are_here_and_the_disk_is_slow() -> None:
    host = Host()
    flight = host.flight(1)
    async with host.watching(flight) as watching:
        await watching.turn(entry(flight, 100))
        watching.moved(100)
        host.clock.pass_s(1_000)
        assert watching.overdue() is None


async def test_in_the_queue_is_not_stalled_and_shows_what_others_move() -> None:
    host, tasks = Host(most_bytes=100), Tasks()
    first, second = host.flight(1), host.flight(2)
    async with host.watching(first) as ahead:
        await ahead.turn(entry(first, 90))
        behind = host.watching(second)
        turn = tasks.start(behind.turn(entry(second, 90)), name="turn", watched=True)
        await asyncio.sleep(0)
        ahead.moved(40)
        host.clock.pass_s(1_000)
        assert behind.overdue() is None
        assert (second.done_bytes, second.total_bytes) == (40, 0)
    await turn
    behind.moved(10)
    assert (second.done_bytes, second.queued_bytes, second.total_bytes) == (50, 40, 90)
    assert first.done_bytes == 40, "what had its turn counts its own bytes alone"
    await behind.__aexit__()


async def test_what_is_known_elsewhere_of_an_entry_counts() -> None:
    host = Host()
    flight, asked = host.flight(1), []

    def worth_s(name: ModuleName, neff_bytes: int, stated_s: float | None) -> float:
        asked.append((name, neff_bytes, stated_s))
        return 20.0

    async with host.watching(flight, worth_s=worth_s) as watching:
        await watching.turn(entry(flight, 100, 90.0))
    assert asked == [(flight.name, 100, 90.0)]
    assert flight.give_up_s == 20.0


async def test_how_long_the_rest_takes_is_known_while_it_is_under_way() -> None:
    host = Host()
    flight = host.flight(1)
    async with host.watching(flight) as watching:
        await watching.turn(entry(flight, 100, 60.0))
        for _ in range(3):
            host.clock.pass_s(1.0)
            watching.moved(10)
            assert flight.left_s is None
            assert watching.overdue() is None
        assert flight.left_s == pytest.approx(7.0)
        watching.moved(70)
        assert watching.overdue() is None
        assert flight.left_s is None
        flight.left_s = 1.0
    assert flight.left_s is None


@pytest.mark.parametrize(("compile_s", "give_up_s"), [(None, 600.0), (1.0, STALL_S), (90.0, 90.0), (9e6, 600.0)])
async def test_nobody_waits_longer_than_a_compile(compile_s: float | None, give_up_s: float) -> None:
    host = Host()
    flight = host.flight(1)
    async with host.watching(flight) as watching:
        await watching.turn(entry(flight, 10, compile_s))
        assert flight.give_up_s == give_up_s


async def test_signs_of_life_are_no_bytes() -> None:
    """Behind others, it is neither stalled nor slow; who waits for it sees that something moves."""
    host = Host()
    flight = host.flight(1)
    async with host.watching(flight) as watching:
        await watching.turn(entry(flight, 100))
        for _ in range(20):
            before = flight.done_bytes
            host.clock.pass_s(1.0)
            watching.alive()
            assert watching.overdue() is None
            assert flight.left_s is None
            assert flight.done_bytes > before
        assert flight.own_bytes == 0
        host.clock.pass_s(STALL_S + 0.1)
        assert watching.overdue() == "no byte in 5 s"
