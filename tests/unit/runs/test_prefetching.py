"""What is brought before a run asks: in order, within the budget, and with an honest account of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from neff.keys import ModuleName
from neffd.fetch.flight import READY_HERE, Answer, Flight, Flights
from neffd.metrics import Metrics
from neffd.runs import prefetching
from neffd.runs.budget import Budget
from neffd.runs.identity import Identity
from neffd.runs.manifests import UsedModule
from neffd.runs.prefetching import Prefetcher
from neffd.runs.recorder import LOCAL, Recorder, Run
from neffd.tasks import Tasks
from tests.harness import entries
from tests.unit.clock import Clock
from tests.unit.waiting import until

ROOT, SOURCE = "/cache", "same-key"
NAMES = [entries.module(number) for number in range(6)]
SIZE_BYTES = 1000


class Bringing:
    """A prefetcher and a line of flights that the test lands."""

    def __init__(self, most_bytes: int = 10**6) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.tasks = Tasks()
        self.budget = Budget(most_bytes)
        self.told: list[tuple[str, ModuleName, str]] = []
        self.prefetcher = Prefetcher(
            self.tasks, self.metrics, self.budget, self.clock, lambda *came: self.told.append(came)
        )
        self.recorder = Recorder(self.clock, self.clock)
        self.run: Run = self.recorder.joined(Identity("one", "RUN_" + "a" * 32))[0]
        self.flights = Flights(self.clock)
        self.begun: list[ModuleName] = []
        self.here: set[ModuleName] = set()

    def start(self, stated_bytes: int | None = SIZE_BYTES, names: Sequence[ModuleName] = NAMES) -> None:
        modules: Mapping[ModuleName, UsedModule] = {name: UsedModule(name.key, stated_bytes) for name in names}
        self.prefetcher.start(self.run, ROOT, modules, SOURCE, self.resolve)

    def resolve(self, name: ModuleName) -> Answer | Flight:
        if name in self.here:
            return READY_HERE
        self.begun.append(name)
        flight, _ = self.flights.join(name)
        flight.begin(SIZE_BYTES)
        flight.remote = "hub"
        return flight

    def land(self, name: ModuleName, *, ready: bool = True) -> None:
        answer = Answer(True, source="hub", compile_s=60.0) if ready else Answer(False, "not-on-remotes")
        self.flights.land(self.flights.join(name)[0], answer)

    def counted(self, what: str) -> float:
        return self.metrics.value(f"neffd_prefetch{what}_bytes_total", source=SOURCE)


async def test_they_come_in_the_recorded_order_and_are_accounted_for() -> None:
    bringing = Bringing()
    bringing.here.add(NAMES[1])
    bringing.start()
    await until(lambda: len(bringing.begun) == 5, "all are begun")
    assert bringing.begun == [name for name in NAMES if name != NAMES[1]]
    for name in bringing.begun[:-1]:
        bringing.land(name)
    bringing.land(NAMES[5], ready=False)
    await until(lambda: not len(bringing.tasks), "all have landed")
    assert bringing.counted("ed") == 4 * SIZE_BYTES
    assert sorted(bringing.told) == [(ROOT, name, "hub") for name in (NAMES[0], *NAMES[2:5])]

    brought = bringing.prefetcher.used(ROOT, NAMES[0], was_there=True)
    assert brought is not None
    assert (brought.remote, brought.compile_s) == ("hub", 60.0)
    assert bringing.prefetcher.used(ROOT, NAMES[0], was_there=True) is None
    assert bringing.prefetcher.used(ROOT, NAMES[1], was_there=True) is None
    bringing.prefetcher.ended(bringing.run)
    assert (bringing.counted("_used"), bringing.counted("_wasted")) == (SIZE_BYTES, 3 * SIZE_BYTES)
    assert bringing.budget.status()[SOURCE]["wasted_bytes"] == 3 * SIZE_BYTES


async def test_however_often_a_source_guesses_for_a_run_it_has_one_budget() -> None:
    """As with modules that were published in pairs: each that is fetched tells of another one."""
    bringing = Bringing(most_bytes=2 * SIZE_BYTES)
    for name in NAMES:
        bringing.start(names=[name])
    for number in range(2):
        await until(lambda: len(bringing.begun) > number, "the next one is begun")  # noqa: B023
        bringing.land(bringing.begun[number])
    await until(lambda: not len(bringing.tasks), "all is over")
    assert bringing.begun == NAMES[:2]
    assert bringing.prefetcher.used(ROOT, NAMES[0], was_there=True) is not None
    bringing.recorder.end(bringing.run)
    bringing.prefetcher.ended(bringing.run)
    bringing.run = bringing.recorder.joined(Identity("two", "RUN_" + "a" * 32))[0]
    bringing.start(names=NAMES[2:3])
    await until(lambda: bringing.begun == NAMES[:3], "the next run has its own")
    bringing.land(NAMES[2])


async def test_what_is_found_before_we_are_told_that_it_came_was_brought_too() -> None:
    bringing = Bringing()
    bringing.start()
    await until(lambda: len(bringing.begun) == 6, "all are begun")
    assert bringing.prefetcher.used(ROOT, NAMES[0], was_there=False) is None
    assert bringing.prefetcher.used(ROOT, NAMES[0], was_there=True) is not None
    for name in NAMES:
        bringing.land(name)
    await until(lambda: not len(bringing.tasks), "all have landed")
    assert (bringing.counted("ed"), bringing.counted("_used")) == (6 * SIZE_BYTES, SIZE_BYTES)


async def test_what_a_rank_was_faster_to_ask_for_is_no_prefetch() -> None:
    bringing = Bringing()
    bringing.start()
    await until(lambda: len(bringing.begun) == 6, "all are begun")
    bringing.recorder.used(bringing.run, ROOT, NAMES[0], LOCAL)
    for name in NAMES:
        bringing.land(name)
    await until(lambda: not len(bringing.tasks), "all have landed")
    assert bringing.counted("ed") == 5 * SIZE_BYTES
    assert NAMES[0] not in [name for _, name, _ in bringing.told]


@pytest.mark.parametrize("stated_bytes", [SIZE_BYTES, 0, None])
async def test_the_budget_holds_whatever_is_stated(monkeypatch: pytest.MonkeyPatch, stated_bytes: int | None) -> None:
    monkeypatch.setattr(prefetching, "_PARALLEL", 1)
    bringing = Bringing(most_bytes=2 * SIZE_BYTES)
    bringing.start(stated_bytes)

    async def land_all() -> None:
        while len(bringing.tasks):
            for flight in list(bringing.flights._open.values()):
                bringing.land(flight.name)
            await asyncio.sleep(0)

    await land_all()
    assert bringing.begun == NAMES[:2]


async def test_nothing_more_is_begun_for_a_run_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetching, "_PARALLEL", 2)
    bringing = Bringing()
    bringing.start()
    await until(lambda: len(bringing.begun) == 2, "the first are begun")
    bringing.recorder.end(bringing.run)
    bringing.land(NAMES[0])
    bringing.land(NAMES[1])
    await until(lambda: not len(bringing.tasks), "it has stopped")
    assert bringing.begun == NAMES[:2]


async def test_what_lands_after_the_end_was_for_nothing_and_is_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetching, "_PARALLEL", 3)
    bringing = Bringing()
    bringing.start()
    await until(lambda: len(bringing.begun) == 3, "the first are begun")
    bringing.land(NAMES[0])
    await until(lambda: bringing.counted("ed") == SIZE_BYTES, "one has come")
    assert bringing.prefetcher.used(ROOT, NAMES[0], was_there=True) is not None
    bringing.recorder.end(bringing.run)
    bringing.prefetcher.ended(bringing.run)
    assert bringing.budget.status() == {SOURCE: {"allowance_bytes": 10**6, "used_bytes": 0, "wasted_bytes": 0}}
    for name in list(bringing.begun[1:]):
        bringing.land(name)
    await until(lambda: not len(bringing.tasks), "it has stopped")
    assert bringing.counted("_wasted") == (len(bringing.begun) - 1) * SIZE_BYTES
    assert bringing.budget.status()[SOURCE]["used_bytes"] == SIZE_BYTES
    assert bringing.prefetcher.awaited() == set()


async def test_no_more_is_brought_than_there_is_room_for() -> None:
    bringing = Bringing()
    modules = {name: UsedModule(name.key, SIZE_BYTES) for name in NAMES}
    bringing.prefetcher.start(bringing.run, ROOT, modules, SOURCE, bringing.resolve, 2 * SIZE_BYTES)
    await until(lambda: len(bringing.begun) == 2, "two are begun")
    assert bringing.prefetcher.awaited() == set(NAMES[:2])
    for name in NAMES[:2]:
        bringing.land(name)
    await until(lambda: not len(bringing.tasks), "it has stopped")
    assert bringing.begun == NAMES[:2]
