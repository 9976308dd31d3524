"""What is fetched before anybody asks: held by a remote, extracted lately, not tried in vain a moment ago."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from neff.keys import ModuleName
from neffd.care import pending
from neffd.care.pending import PendingFetches, Waiting
from neffd.fetch.flight import READY_HERE, Answer, Flight
from neffd.layouts import xla
from neffd.remotes.base import RemoteUnavailable
from neffd.store.root import FileFacts, Inspection
from neffd.tasks import Tasks
from tests.harness import entries
from tests.unit.clock import Clock
from tests.unit.waiting import until

NOW = 2e9
NAMES = [entries.module(number) for number in range(10)]


def looks(state: xla.State, made_at: float = NOW) -> Inspection:
    return Inspection(state, {"model.hlo_module.pb": FileFacts(1, int(made_at * 1e9), 1, 0, 0)})


class Listing:
    """A catalog as far as it is needed: what it holds appears at the refresh after it was put there."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.new: set[str] = set()
        self.refreshed: list[str] = []
        self.is_away = False

    def knows(self, namespace: str, key: str) -> bool:
        return key in self.keys

    async def refresh(self, namespace: str) -> None:
        self.refreshed.append(namespace)
        if self.is_away:
            raise RemoteUnavailable("unreachable")
        self.keys |= self.new


class Host:
    def __init__(self) -> None:
        self.clock = Clock()
        self.listing = Listing()
        self.tasks = Tasks(lambda name, error: self.crashed.append(repr(error)))
        self.crashed: list[str] = []
        self.answer: Callable[[ModuleName], Answer | Flight] = lambda name: Answer(True, source="team")
        self.fetched: list[ModuleName] = []
        self.noted: list[ModuleName] = []
        self.pending = PendingFetches(
            self.tasks,
            catalogs=lambda: [self.listing],
            fetch=self._fetch,
            note=lambda name, what, **facts: self.noted.append(name),
            clock=self.clock,
            wall=lambda: NOW,
        )

    def _fetch(self, name: ModuleName) -> Answer | Flight:
        self.fetched.append(name)
        return self.answer(name)

    def hold(self, *names: ModuleName) -> None:
        self.listing.new |= {name.key for name in names}


@pytest.fixture
async def host(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    monkeypatch.setattr(pending, "_LOOK_EVERY_S", 0.01)
    made = Host()
    made.tasks.start(made.pending.run(), name="pending")
    yield made
    await made.tasks.stop(5)
    assert not made.crashed


async def some_looks() -> None:
    """Several rounds of comparing."""
    await asyncio.sleep(0.1)


async def test_what_a_remote_holds_is_fetched_after_one_refresh(host: Host) -> None:
    host.hold(*NAMES[:4])
    for name in NAMES:
        host.pending.saw(name, looks(xla.State.PENDING))
    await until(lambda: len(host.noted) == 4, "all four")
    assert sorted(host.fetched) == sorted(NAMES[:4])
    assert host.listing.refreshed == [entries.NAMESPACE]


async def test_ten_thousand_that_nobody_has_cost_one_refresh_and_no_question(host: Host) -> None:
    for number in range(10_000):
        host.pending.saw(entries.module(number), looks(xla.State.PENDING))
    await until(lambda: host.listing.refreshed, "the refresh")
    host.clock.pass_s(3600)
    await some_looks()
    assert (host.fetched, host.listing.refreshed) == ([], [entries.NAMESPACE])


async def test_one_that_comes_to_a_remote_later_is_fetched_then(host: Host) -> None:
    host.pending.saw(NAMES[0], looks(xla.State.PENDING))
    await until(lambda: host.listing.refreshed, "the refresh")
    assert host.fetched == []
    host.listing.keys.add(NAMES[0].key)  # the catalog's own regular look
    await until(lambda: host.noted == [NAMES[0]], "fetched")


async def test_a_remote_that_is_away_hides_nothing_that_was_known(host: Host) -> None:
    host.listing.is_away = True
    host.listing.keys.add(NAMES[0].key)
    for name in NAMES:
        host.pending.saw(name, looks(xla.State.PENDING))
    await until(lambda: host.noted == [NAMES[0]], "fetched")
    assert host.fetched == [NAMES[0]], "and nothing else is tried"


async def test_new_graphs_all_the_time_ask_a_remote_now_and_then(host: Host) -> None:
    for name in NAMES:
        host.pending.saw(name, looks(xla.State.PENDING))
        await some_looks()
    assert len(host.listing.refreshed) == 1
    host.clock.pass_s(60)
    await until(lambda: len(host.listing.refreshed) == 2, "the graphs that came since")


@pytest.mark.parametrize(
    ("reason", "again_after_s"), [("remote-unavailable", 31), ("locked", 31), ("refused", 601), ("not-on-remotes", 601)]
)
async def test_one_that_could_not_be_had_is_not_asked_for_again_at_once(
    host: Host, reason: str, again_after_s: float
) -> None:
    host.answer = lambda name: Answer(False, reason)
    host.hold(NAMES[0])
    host.pending.saw(NAMES[0], looks(xla.State.PENDING))
    await until(lambda: host.fetched, "the first try")
    await some_looks()
    assert len(host.fetched) == 1
    host.clock.pass_s(again_after_s)
    await until(lambda: len(host.fetched) == 2, "another try")


async def test_few_at_once(host: Host) -> None:
    flights: dict[ModuleName, Flight] = {}

    def fly(name: ModuleName) -> Flight:
        flights[name] = Flight(name, 0.0, asyncio.get_running_loop().create_future())
        return flights[name]

    host.answer = fly
    names = [entries.module(number) for number in range(30)]
    host.hold(*names)
    for name in names:
        host.pending.saw(name, looks(xla.State.PENDING))
    await until(lambda: len(flights) == 8, "as many as may be")
    await some_looks()
    assert len(flights) == 8
    while len(host.noted) < 30:
        for flight in list(flights.values()):
            if not flight.outcome.done():
                flight.outcome.set_result(Answer(True, source="team"))
        await asyncio.sleep(0.01)
    assert len(host.fetched) == 30


@pytest.mark.parametrize("state", [xla.State.COMPILING, xla.State.READY, xla.State.FAILED, xla.State.EMPTY])
async def test_what_is_not_pending_any_more_when_its_turn_comes_is_left_alone(host: Host, state: xla.State) -> None:
    first = Flight(NAMES[0], 0.0, asyncio.get_running_loop().create_future())
    host.answer = lambda name: first if name in NAMES[:8] else Answer(True, source="team")
    host.hold(*NAMES)
    for name in NAMES:
        host.pending.saw(name, looks(xla.State.PENDING))
    await until(lambda: len(host.fetched) == 8, "all slots are taken")
    host.pending.saw(NAMES[8], looks(state))
    first.outcome.set_result(Answer(True, source="team"))
    await until(lambda: NAMES[9] in host.fetched, "the last one")
    assert NAMES[8] not in host.fetched


async def test_one_that_was_compiled_meanwhile_was_not_fetched(host: Host) -> None:
    host.answer = lambda name: READY_HERE if name == NAMES[0] else Answer(True, source="team")
    host.hold(*NAMES[:2])
    for name in NAMES[:2]:
        host.pending.saw(name, looks(xla.State.PENDING))
    await until(lambda: len(host.fetched) == 2, "both tries")
    await until(lambda: host.noted, "the story of the second")
    await some_looks()
    assert host.noted == [NAMES[1]]


@pytest.mark.parametrize("state", [xla.State.COMPILING, xla.State.READY, xla.State.FAILED, xla.State.EMPTY])
async def test_only_pending_ones(host: Host, state: xla.State) -> None:
    host.hold(*NAMES[:2])
    host.pending.saw(NAMES[0], looks(state))
    host.pending.saw(NAMES[1], looks(xla.State.PENDING))
    await until(lambda: host.noted == [NAMES[1]], "the pending one")
    assert host.fetched == [NAMES[1]]


async def test_what_was_extracted_long_ago_waits_for_somebody_to_ask(host: Host) -> None:
    host.hold(*NAMES[:2])
    host.pending.saw(NAMES[0], looks(xla.State.PENDING, made_at=NOW - 30 * 86_400))
    host.pending.saw(NAMES[1], looks(xla.State.PENDING))
    await until(lambda: host.noted == [NAMES[1]], "the new one")
    await some_looks()
    assert host.fetched == [NAMES[1]]


def test_no_more_wait_than_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MAX_WAITING", 3)
    waiting = Waiting(Clock())
    assert [waiting.add(name) for name in NAMES[:5]] == [True, True, True, False, False]
    waiting.drop(NAMES[0])
    assert waiting.add(NAMES[4])
