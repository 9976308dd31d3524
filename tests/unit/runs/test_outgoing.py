"""What a remote is told of runs, and when: on a batch, else once alone, and never before the entries are there."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping

import pytest

from neff.keys import ModuleName
from neffd.metrics import Metrics
from neffd.remotes.base import NOT_TRIED, EntryFailed, PublishResult
from neffd.runs import manifests
from neffd.runs.manifests import Manifest
from neffd.runs.outgoing import Outgoing
from neffd.runs.pending import PendingBook
from neffd.store.database import Database
from tests.harness import entries
from tests.unit.clock import Clock
from tests.unit.runs.test_manifests import manifest

STORED = PublishResult.STORED
REFUSED = EntryFailed("refused-by-hub", permanent=False)


class Remote:
    """What a remote holds, and was told, as far as `Outgoing` knows."""

    def __init__(self) -> None:
        self.holds: set[ModuleName] = set()
        self.told: frozenset[str] | None = frozenset()
        self.looks = self.changes = 0

    def has(self, *numbers: int) -> None:
        self.holds |= {entries.module(number) for number in numbers}

    def changed(self) -> None:
        self.changes += 1

    async def known(self, manifest: Manifest) -> frozenset[str] | None:
        self.looks += 1
        return self.told


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def remote() -> Remote:
    return Remote()


@pytest.fixture
def make(database: Database, clock: Clock, remote: Remote) -> Callable[..., Outgoing]:
    def make(*, public: bool | None = False, allow_public: bool = False, allow_private: bool = False) -> Outgoing:
        made = Outgoing(
            "one",
            PendingBook(database, clock),
            Metrics(),
            allow_public=allow_public,
            allow_private=allow_private,
            holds=remote.holds.__contains__,
            known=remote.known,
            on_told=remote.changed,
            quiet_s=10,
            max_delay_s=120,
            clock=clock,
        )
        made.access(public is not False)
        return made

    return make


@pytest.fixture
def outgoing(make: Callable[..., Outgoing]) -> Outgoing:
    return make()


def named(documents: Mapping[str, bytes]) -> list[list[int]]:
    """The numbers of the modules that each document names."""
    found = (manifests.decode(path, content).modules for path, content in documents.items())
    return [[(module.size_bytes or 0) - 1_000 for module in modules] for modules in found]


def names(*numbers: int) -> list[ModuleName]:
    return [entries.module(number) for number in numbers]


async def put(outgoing: Outgoing, *numbers: int, run: str = "job", ended: bool = True, private: bool = False) -> None:
    await outgoing.put(run, manifest(*numbers), private=private, has_ended=ended)


async def go(outgoing: Outgoing, documents: Mapping[str, bytes], *, alone: bool = False) -> None:
    await outgoing.went(dict.fromkeys(documents, STORED), alone=alone)


async def test_it_names_what_is_there_or_comes_along(outgoing: Outgoing, remote: Remote) -> None:
    remote.has(1)
    await put(outgoing, 3, 1, 2)
    assert named(await outgoing.riding(names(2))) == [[1, 2]]
    assert named(await outgoing.riding(names(2, 3))) == [[3, 1, 2]]
    assert named(await outgoing.riding([])) == [[1]]


async def test_what_was_told_is_told_once(outgoing: Outgoing, remote: Remote) -> None:
    remote.has(1, 2)
    await put(outgoing, 1, 2)
    documents = await outgoing.riding([])
    await go(outgoing, documents)
    assert remote.changes == 1
    assert await outgoing.riding([]) == {}
    assert (outgoing.due_in_s, outgoing.status()["waiting"]) == (None, 0)


@pytest.mark.parametrize("jump_s", [-1e9, 1e9])
async def test_what_waits_is_kept_over_a_restart_whatever_the_wall_clock_says(
    make: Callable[..., Outgoing], outgoing: Outgoing, remote: Remote, clock: Clock, jump_s: float
) -> None:
    await put(outgoing, 1, run="first")
    clock.pass_s(jump_s)
    await put(outgoing, 2, run="second")
    clock.pass_s(jump_s)
    again = make()
    await again.load()
    remote.has(1, 2)
    assert named(await again.riding([])) == [[1], [2]]


async def test_what_others_told_is_not_told_again(outgoing: Outgoing, remote: Remote) -> None:
    remote.has(1, 2)
    remote.told = frozenset({entries.module(1).key, entries.module(2).key})
    await put(outgoing, 1, 2)
    assert await outgoing.riding([]) == {}
    assert outgoing.status()["waiting"] == 0
    remote.has(3)
    await put(outgoing, 1, 2, 3)
    assert named(await outgoing.riding([])) == [[1, 2, 3]], "all of it, for the order"


async def test_a_run_that_goes_on_is_told_of_seldom(outgoing: Outgoing, remote: Remote) -> None:
    told = []
    for last in range(1, 65):
        remote.has(last)
        await put(outgoing, *range(1, last + 1), ended=False)
        documents = await outgoing.riding([])
        told += [len(numbers) for numbers in named(documents)]
        await go(outgoing, documents)
    assert told == [1, 2, 4, 8, 16, 32, 64]
    assert outgoing.due_in_s == 60, "never alone"
    assert outgoing.ready == 0


async def test_after_the_end_it_goes_alone_when_all_is_there(outgoing: Outgoing, remote: Remote, clock: Clock) -> None:
    remote.has(1, 2)
    await put(outgoing, 1, 2)
    assert outgoing.due_in_s == 10
    assert await outgoing.alone() == {}
    clock.pass_s(10)
    assert outgoing.due_in_s == 0
    assert named(await outgoing.alone()) == [[1, 2]]


async def test_it_waits_longer_for_entries_that_are_still_on_their_way(
    outgoing: Outgoing, remote: Remote, clock: Clock
) -> None:
    await put(outgoing, 1, 2)
    clock.pass_s(1_000)
    assert (outgoing.due_in_s, outgoing.ready) == (60, 0), "nothing of it is there"
    remote.has(1)
    await put(outgoing, 1, 2)
    assert outgoing.due_in_s == 120
    clock.pass_s(120)
    documents = await outgoing.alone()
    assert named(documents) == [[1]]
    await go(outgoing, documents, alone=True)
    remote.has(2)
    clock.pass_s(3_000)
    assert outgoing.due_in_s == 60, "one commit of its own"
    assert named(await outgoing.riding([])) == [[1, 2]], "what comes later rides"


async def test_a_commit_of_their_own_serves_several_runs_and_comes_seldom(
    outgoing: Outgoing, remote: Remote, clock: Clock
) -> None:
    remote.has(1, 2, 3)
    await put(outgoing, 1, run="a")
    await put(outgoing, 2, run="b")
    clock.pass_s(10)
    documents = await outgoing.alone()
    assert sorted(named(documents)) == [[1], [2]]
    await go(outgoing, documents, alone=True)
    await put(outgoing, 3, run="c")
    assert outgoing.due_in_s == 120
    outgoing.flush()
    assert outgoing.due_in_s == 0
    assert named(await outgoing.alone()) == [[3]]


@pytest.mark.parametrize(
    ("public", "allow_public", "allow_private", "private", "goes"),
    [
        (False, False, False, True, True),
        (True, False, True, False, False),
        (True, True, False, False, True),
        (True, True, False, True, False),
        (True, True, True, True, True),
        (None, True, False, True, False),
    ],
)
async def test_private_models_are_nobodys_business(
    make: Callable[..., Outgoing],
    remote: Remote,
    clock: Clock,
    public: bool | None,
    allow_public: bool,
    allow_private: bool,
    private: bool,
    goes: bool,
) -> None:
    outgoing = make(public=public, allow_public=allow_public, allow_private=allow_private)
    remote.has(1)
    await put(outgoing, 1, private=private)
    clock.pass_s(1_000)
    assert bool(await outgoing.riding(names(1))) is goes
    assert bool(await outgoing.alone()) is goes
    assert outgoing.status()["reason"] == ("private-model" if allow_public and not goes else None)


async def test_while_nobody_knows_what_was_told_nothing_is(outgoing: Outgoing, remote: Remote, clock: Clock) -> None:
    remote.has(1)
    remote.told = None
    for run in "abcdef":
        await put(outgoing, 1, run=run)
    assert await outgoing.riding([]) == {}
    assert remote.looks == 1, "one look says it for all"
    clock.pass_s(10)
    assert await outgoing.alone() == {}
    assert outgoing.due_in_s is not None
    assert outgoing.due_in_s >= 15
    assert outgoing.ready == 0, "nobody waits for it"


async def test_what_is_refused_rides_no_more_and_is_given_up_in_the_end(
    outgoing: Outgoing, remote: Remote, clock: Clock
) -> None:
    remote.has(1, 2)
    await put(outgoing, 1, run="bad")
    await outgoing.went(dict.fromkeys(await outgoing.riding([]), REFUSED), alone=False)
    assert await outgoing.riding([]) == {}
    await put(outgoing, 2, run="good")
    for expected in ([[2]], [[1]], [[1]]):
        clock.pass_s(4_000)
        documents = await outgoing.alone()
        assert named(documents) == expected, "what failed goes by itself"
        outcome = STORED if expected == [[2]] else REFUSED
        await outgoing.went(dict.fromkeys(documents, outcome), alone=True)
    assert outgoing.status()["waiting"] == 0


async def test_what_was_not_tried_is_no_failure(outgoing: Outgoing, remote: Remote) -> None:
    remote.has(1)
    await put(outgoing, 1)
    for _ in range(5):
        documents = await outgoing.riding([])
        assert named(documents) == [[1]]
        await outgoing.went(dict.fromkeys(documents, EntryFailed(NOT_TRIED, permanent=False)), alone=False)


async def test_a_restart_forgets_nothing(make: Callable[..., Outgoing], remote: Remote, clock: Clock) -> None:
    remote.has(1, 2)
    await put(make(), 1, 2)
    again = make()
    await again.load()
    assert named(await again.riding([])) == [[1, 2]]
    await go(again, await again.riding([]))
    third = make()
    await third.load()
    assert third.status()["waiting"] == 0
    await put(make(), 3)
    await third.load()
    clock.pass_s(8 * 86_400)
    assert await third.riding([]) == {}
    await third.load()
    assert third.status()["waiting"] == 0, "too old"


async def test_its_one_commit_is_remembered_over_a_restart(
    make: Callable[..., Outgoing], remote: Remote, clock: Clock
) -> None:
    remote.has(1)
    first = make()
    await put(first, 1, 2)
    clock.pass_s(120)
    await go(first, await first.alone(), alone=True)
    again = make()
    await again.load()
    remote.has(2)
    remote.told = frozenset({entries.module(1).key})
    clock.pass_s(1_000)
    assert again.ready == 0
    assert named(await again.riding([])) == [[1, 2]]


async def test_a_full_disk_stops_nothing(outgoing: Outgoing, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Database, "run", fail)
    remote.has(1)
    await outgoing.load()
    await put(outgoing, 1)
    await go(outgoing, await outgoing.riding([]))
    assert outgoing.status()["waiting"] == 0


async def test_what_waits_is_bounded(outgoing: Outgoing, clock: Clock) -> None:
    for number in range(205):
        clock.pass_s(1)
        await put(outgoing, 1, run=str(number))
    assert outgoing.status()["waiting"] == 200
