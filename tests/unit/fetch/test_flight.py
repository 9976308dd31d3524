"""Single flight beside a model of it: one fetch of an entry at a time, everybody gets its end, progress never stops."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from neff.keys import ModuleName
from neff.protocol import MAX_LINE_BYTES, encode
from neffd.fetch.flight import Answer, Flight, Flights, fetching_status
from tests.harness import entries
from tests.unit.clock import Clock

NAMES = st.integers(0, 3).map(entries.module)


@dataclass
class Expected:
    """An open flight, and what moved since it was asked for: in all, for itself, and in all until its turn came."""

    flight: Flight
    all_bytes: int = 0
    own_bytes: int = 0
    before_turn_bytes: int | None = None
    shown_bytes: int = 0


class FlightMachine(RuleBasedStateMachine):
    """Asks, moves and lands, and keeps what must be known of it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.flights = Flights(self.clock)
        self.model: dict[ModuleName, Expected] = {}
        self.landed: list[tuple[Flight, Answer]] = []

    def teardown(self) -> None:
        for known in self.model.values():
            known.flight.outcome.cancel()
        self.loop.close()

    async def _join(self, name: ModuleName) -> tuple[Flight, bool]:
        return self.flights.join(name)

    def _open(self, data: st.DataObject) -> Expected:
        return self.model[data.draw(st.sampled_from(sorted(self.model)))]

    @rule(name=NAMES, seconds=st.floats(0, 100))
    def ask(self, name: ModuleName, seconds: float) -> None:
        self.clock.pass_s(seconds)
        flight, is_new = self.loop.run_until_complete(self._join(name))
        assert is_new == (name not in self.model), "one at a time"
        if is_new:
            assert (flight.name, flight.began_at, flight.found) == (name, self.clock(), False)
            assert all(flight is not gone for gone, _ in self.landed), "a new question starts afresh"
            self.model[name] = Expected(flight)
        assert flight is self.model[name].flight

    @precondition(lambda self: self.model)
    @rule(data=st.data(), is_found=st.booleans(), ready=st.booleans())
    def land(self, data: st.DataObject, is_found: bool, ready: bool) -> None:
        flight = self._open(data).flight
        flight.found = is_found
        answer = Answer(ready, reason="" if ready else "not-on-remotes")
        self.flights.land(flight, answer)
        del self.model[flight.name]
        self.landed.append((flight, answer))

    @precondition(lambda self: self.landed)
    @rule(data=st.data())
    def land_once_more(self, data: st.DataObject) -> None:
        """As when its task is cancelled on its way out: neither its answer nor a newer flight is touched."""
        flight, _ = data.draw(st.sampled_from(self.landed))
        self.flights.land(flight, Answer(False, "stopping"))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), count=st.integers(1, 1000))
    def move(self, data: st.DataObject, count: int) -> None:
        known = self._open(data)
        self.flights.moved(known.flight, count)
        known.own_bytes += count
        for other in self.model.values():
            other.all_bytes += count

    @precondition(lambda self: self.model)
    @rule(data=st.data(), total_bytes=st.integers(0, 5000))
    def its_turn_comes(self, data: st.DataObject, total_bytes: int) -> None:
        known = self._open(data)
        known.flight.begin(total_bytes)
        assert known.flight.total_bytes == total_bytes
        if known.before_turn_bytes is None:
            known.before_turn_bytes = known.all_bytes - known.own_bytes

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def a_remote_holds_it(self, data: st.DataObject) -> None:
        self._open(data).flight.found = True

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert len(self.flights) == len(self.model)
        assert self.flights.under_way() == [known.flight for known in self.model.values() if known.flight.found]
        for known in self.model.values():
            flight = known.flight
            assert not flight.outcome.done()
            assert flight.has_begun == (known.before_turn_bytes is not None)
            others_bytes = known.before_turn_bytes
            if others_bytes is None:
                others_bytes = known.all_bytes - known.own_bytes
            assert flight.done_bytes == others_bytes + known.own_bytes
            assert flight.done_bytes >= known.shown_bytes, "an asker never sees it go back"
            known.shown_bytes = flight.done_bytes
        assert all(flight.outcome.result() is answer for flight, answer in self.landed), "everybody gets the same end"


TestFlight = FlightMachine.TestCase
TestFlight.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


async def test_thousands_that_wait_for_their_turn_leave_room_for_the_rest_of_the_status() -> None:
    """Else `neff status` would be refused for as long as a large prefetch goes on."""
    flights = Flights(Clock())
    several = [flights.join(entries.module(number))[0] for number in range(5000)]
    for flight in several:
        flight.remote = "a" * 63
    several[-1].begin(5)
    told = fetching_status(several, 3.0)
    assert len(encode({"id": 1, "status": told, "done": True})) < MAX_LINE_BYTES / 4
    assert told["fetching_count"] == 5000
    assert [row["name"] for row in told["fetching"][:2]] == [str(several[-1].name), str(several[0].name)]
    assert fetching_status([], 3.0) == {"fetching": [], "fetching_count": 0}
