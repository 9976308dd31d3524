"""What a remote is told of runs, and when: on a batch, else once alone, and never before the entries are there."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping

import pytest

from neff.keys import ModuleName
from neffd.metrics import Metrics
from neffd.remotes.base import NOT_TRIED, EntryFailed, PublishResult, RemoteUnavailable
from neffd.runs import manifests
from neffd.runs.manifests import Manifest
from neffd.runs.outgoing import Outgoing
from neffd.runs.pending import PendingBook
from neffd.store.database import Database
from tests.harness import entries
from tests.unit.clock import Clock
from tests.unit.runs.test_manifests import INGREDIENTS, manifest

STORED = PublishResult.STORED
REFUSED = EntryFailed("refused-by-hub")
TROUBLE = EntryFailed("server-error", permanent=False)
DAY_S = 86_400.0


class Remote:
    """What a remote holds, and was told, as far as `Outgoing` knows."""

    def __init__(self) -> None:
        self.holds: set[ModuleName] = set()
        self.told: frozenset[str] | None = frozenset()
        self.unreadable: set[str] = set()  # run keys, and types of models
        self.looks = self.changes = 0

    def has(self, *numbers: int) -> None:
        self.holds |= {entries.module(number) for number in numbers}

    def changed(self) -> None:
        self.changes += 1

    async def known(self, manifest: Manifest) -> frozenset[str] | None:
        self.looks += 1
        return None if self.unreadable & {manifest.run_key, manifest.ingredients["model"]["type"]} else self.told


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


async def test_much_that_is_told_keeps_nobody_else_waiting(
    make: Callable[..., Outgoing], outgoing: Outgoing, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest of 10,000 modules takes a tenth of a second to be encoded, and read again."""
    threads = []
    encode, decode = manifests.encode, manifests.decode

    def encoded(what: Manifest) -> bytes:
        threads.append(threading.current_thread())
        return encode(what)

    def decoded(path: str, data: bytes) -> Manifest:
        threads.append(threading.current_thread())
        return decode(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(manifests, "encode", encoded)
        patched.setattr(manifests, "decode", decoded)
        remote.has(1)
        await put(outgoing, 1)
        assert len(await outgoing.riding([])) == 1
        await make().load()
    assert len(threads) == 3, "written down, told, read again"
    assert threading.current_thread() not in threads


async def test_what_misses_the_ride_with_its_last_entries_goes_alone_once_more(
    outgoing: Outgoing, remote: Remote, clock: Clock
) -> None:
    remote.has(1)
    await put(outgoing, 1, 2)
    clock.pass_s(120)
    await go(outgoing, await outgoing.alone(), alone=True)
    remote.told = None  # nobody can tell now
    assert await outgoing.riding(names(2)) == {}
    remote.has(2)
    remote.told = frozenset([entries.module(1).key])
    clock.pass_s(3600)
    assert outgoing.due_in_s == 0
    documents = await outgoing.alone()
    assert named(documents) == [[1, 2]]
    await go(outgoing, documents, alone=True)
    assert outgoing.due_in_s is None


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
    clock.pass_s(40)
    assert await outgoing.alone() == {}
    assert remote.looks == 2
    assert outgoing.due_in_s is not None
    assert outgoing.due_in_s >= 30
    assert outgoing.ready == 0, "nobody waits for it"
    remote.told = frozenset()
    clock.pass_s(60)
    assert len(await outgoing.alone()) == 1


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


async def put_of(outgoing: Outgoing, run: str, model_type: str = "llama", *numbers: int) -> None:
    """What a run with a key of its own used, of a model of some type."""
    ingredients = {**INGREDIENTS, "model": {"id": "org/name", "type": model_type}}
    one = manifest(*(numbers or (1,)), ingredients=ingredients, run_key=key_of(run))
    await outgoing.put(run, one, private=False, has_ended=True)


def key_of(run: str) -> str:
    return f"RUN_{int(run, 36):032x}"


def runs(documents: Mapping[str, bytes]) -> list[str]:
    return [path.rpartition("/")[2].partition("-")[0] for path in documents]


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("unreadable", ["llama", key_of("a")])
async def test_what_cannot_be_looked_up_holds_up_no_other(
    outgoing: Outgoing, remote: Remote, clock: Clock, unreadable: str, alone: bool
) -> None:
    remote.has(1)
    remote.unreadable = {unreadable}
    others = ["b", "c"]
    await put_of(outgoing, "a", "llama")
    for run in others:
        await put_of(outgoing, run, "qwen" if unreadable == "llama" else "llama")
    told: list[str] = []
    for _ in range(3):
        clock.pass_s(120)
        documents = await (outgoing.alone() if alone else outgoing.riding([]))
        await go(outgoing, documents, alone=alone)
        told += runs(documents)
    assert told == list(map(key_of, others))
    remote.unreadable.clear()
    clock.pass_s(600)
    assert runs(await outgoing.riding([])) == [key_of("a")], "as soon as it can be"


async def test_however_many_cannot_be_looked_up_few_looks_are_made_at_once(
    outgoing: Outgoing, remote: Remote, clock: Clock
) -> None:
    remote.has(1)
    types = [f"type-{number}" for number in range(10)]
    remote.unreadable = set(types)
    for number in range(40):
        await put_of(outgoing, f"bad{number}", types[number % 10])
    await put_of(outgoing, "good", "qwen")
    clock.pass_s(10)
    assert await outgoing.riding([]) == {}
    assert remote.looks == 1, "entries wait for it"
    told: list[str] = []
    for _ in range(4):
        before = remote.looks
        told += runs(await outgoing.alone())
        assert remote.looks - before <= 4
    assert told == [key_of("good")]
    await go(outgoing, {})
    assert outgoing.due_in_s is not None
    remote.looks = 0
    for _ in range(360):
        clock.pass_s(10)
        if outgoing.due_in_s == 0:
            await go(outgoing, await outgoing.alone(), alone=True)
    assert remote.looks <= 10 * 15, "ever more seldom"


async def test_a_folder_that_can_be_listed_again_is_forgiven(outgoing: Outgoing, remote: Remote, clock: Clock) -> None:
    remote.has(1)
    await put_of(outgoing, "a")
    remote.unreadable = {"llama"}
    for _ in range(10):
        clock.pass_s(600)
        assert await outgoing.riding([]) == {}
    remote.unreadable.clear()
    clock.pass_s(600)
    assert runs(await outgoing.riding([])) == [key_of("a")]
    remote.unreadable = {"llama"}
    assert await outgoing.riding([]) == {}
    remote.unreadable.clear()
    clock.pass_s(30)
    assert runs(await outgoing.riding([])) == [key_of("a")]


async def test_what_was_never_told_is_dropped_in_the_end_whatever_kept_it(
    outgoing: Outgoing, remote: Remote, clock: Clock
) -> None:
    remote.has(1, 2)
    remote.unreadable = {"llama"}
    await put_of(outgoing, "a", "llama")
    clock.pass_s(3 * DAY_S)
    await put_of(outgoing, "b", "qwen")
    clock.pass_s(10)
    assert runs(await outgoing.alone()) == [key_of("b")]
    outgoing.postponed(RemoteUnavailable("server-error"))
    clock.pass_s(4 * DAY_S - 11)
    assert runs(await outgoing.alone()) == [key_of("b")]
    outgoing.postponed(RemoteUnavailable("server-error"))
    assert outgoing.status()["waiting"] == 2
    clock.pass_s(1)
    assert outgoing.due_in_s == 0, "there is one to drop"
    assert await outgoing.alone() == {}
    assert outgoing.status()["waiting"] == 1
    clock.pass_s(3 * DAY_S)
    assert await outgoing.riding([]) == {}
    assert outgoing.status()["waiting"] == 0


@pytest.mark.parametrize("is_told", [True, False])
async def test_trouble_that_may_pass_is_no_refusal_however_long(
    outgoing: Outgoing, remote: Remote, clock: Clock, is_told: bool
) -> None:
    remote.has(1)
    for run in "abcdefgh":
        await put_of(outgoing, run)
    for _ in range(20):
        clock.pass_s(4_000)
        documents = await outgoing.alone()
        assert documents
        if is_told:
            await outgoing.went(dict.fromkeys(documents, TROUBLE), alone=True)
        else:
            outgoing.postponed(RemoteUnavailable("server-error"))
    for _ in range(8):
        clock.pass_s(4_000)
        await go(outgoing, await outgoing.alone(), alone=True)
    assert outgoing.due_in_s is None, "all are told"


async def test_one_attempt_is_one_failure_however_many_went(outgoing: Outgoing, remote: Remote, clock: Clock) -> None:
    remote.has(1)
    for run in "abcdefgh":
        await put_of(outgoing, run)
    clock.pass_s(10)
    documents = await outgoing.alone()
    assert len(documents) == 8
    await outgoing.went(dict.fromkeys(documents, REFUSED), alone=True)
    assert outgoing.due_in_s is not None
    assert outgoing.due_in_s <= 120, "the pause between commits of their own"
    clock.pass_s(120)
    assert len(await outgoing.alone()) == 1


async def test_one_that_always_makes_the_remote_fail_is_left_alone(
    outgoing: Outgoing, remote: Remote, clock: Clock
) -> None:
    """It says no word of refusal: the others must be told all the same, and so must who comes later."""
    remote.has(1)
    for run in "abcdefgh":
        await put_of(outgoing, run)
    told: list[str] = []
    for turn in range(24):
        if turn == 16:
            await put_of(outgoing, "late")
        clock.pass_s(4_000)
        documents = await outgoing.alone()
        if key_of("c") in runs(documents):
            outgoing.postponed(RemoteUnavailable("server-error"))
        else:
            await go(outgoing, documents, alone=True)
            told += runs(documents)
    assert sorted(told) == sorted(map(key_of, ["a", "b", "d", "e", "f", "g", "h", "late"]))
    assert outgoing.status()["waiting"] == 1


async def test_when_the_remote_asks_for_patience_all_go_together_afterwards(
    outgoing: Outgoing, remote: Remote, clock: Clock
) -> None:
    remote.has(1)
    for run in "abcdefgh":
        await put_of(outgoing, run)
    for _ in range(5):
        clock.pass_s(4_000)
        assert len(await outgoing.alone()) == 8
        outgoing.postponed(RemoteUnavailable("rate-limited", retry_after_s=3_900))
        assert outgoing.due_in_s is not None
        assert outgoing.due_in_s >= 3_900


async def test_a_run_that_goes_on_rides_again_after_trouble(outgoing: Outgoing, remote: Remote, clock: Clock) -> None:
    remote.has(1)
    await put(outgoing, 1, ended=False)
    await outgoing.went(dict.fromkeys(await outgoing.riding([]), TROUBLE), alone=False)
    assert await outgoing.riding([]) == {}, "not with the very next ones"
    clock.pass_s(30)
    assert named(await outgoing.riding([])) == [[1]]


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
