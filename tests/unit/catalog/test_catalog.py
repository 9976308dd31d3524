"""What a catalog asks of a real remote on a local Hub, counted in requests."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from neff.budget import CAPACITY_S, LEAST_S
from neff.keys import ModuleName
from neffd.breaker import Breakers
from neffd.catalog import catalog as catalog_module
from neffd.catalog import namespaces as namespaces_module
from neffd.catalog.catalog import LOOK_LIMIT_S, Catalog
from neffd.catalog.saved import SavedListings
from neffd.metrics import Metrics
from neffd.remotes.base import RemoteUnavailable
from neffd.remotes.hub.repo import HubRepoRemote
from neffd.remotes.hub.tokens import TokenSource
from neffd.store.database import Database
from neffd.tasks import Tasks
from tests.harness import entries
from tests.hub import HubServer
from tests.unit.waiting import until

REPO = "alice/cache"
NAMESPACE = entries.NAMESPACE
HEAD = "HEAD /{namespace}/{name}/resolve/{revision}/{path}"
PATHS_INFO = "POST /api/{type}/{namespace}/{name}/paths-info/{revision}"


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[HubServer]:
    async with HubServer(tmp_path / "hub") as server:
        server.seed_files(REPO, entry(1))
        yield server


@asynccontextmanager
async def catalog_of(hub: HubServer, folder: Path, recheck_s: float = 60.0) -> AsyncIterator[Catalog]:
    """A catalog of the repo, as a daemon with its state in `folder` has it."""
    database = Database(folder / "state")
    tasks, tokens = Tasks(), TokenSource(anonymous=True)
    remote = HubRepoRemote("hub", hub.endpoint, REPO, tokens, folder / "hub-home")
    saved = SavedListings(database)
    catalog = Catalog(remote, tasks, Metrics(), saved, poll_s=3600, clock=time.monotonic, recheck_s=recheck_s)
    tasks.start(catalog.keep_fresh(), name="keep-fresh")
    try:
        yield catalog
    finally:
        await tasks.stop(5)
        await remote.close()
        await asyncio.to_thread(database.close)


def key(number: int) -> str:
    return entries.module(number).key


def entry(*numbers: int) -> dict[str, bytes]:
    """Paths and contents of entries in the repo, small enough for thousands."""
    return {
        f"{entries.module(number)}/{file}": data
        for number in numbers
        for file, data in {"model.neff": b"\0neff", "model.done": b""}.items()
    }


def requests(hub: HubServer, *but: str) -> dict[str, int]:
    """Requests since the last reset, by route."""
    counted: dict[str, int] = hub.counters()["requests"]
    return {route: count for route, count in counted.items() if route not in but}


def test_that_a_remote_is_silent_is_known_while_trainers_can_still_ask() -> None:
    assert LOOK_LIMIT_S < CAPACITY_S - LEAST_S


async def test_a_trainer_that_comes_finds_a_fresh_picture(hub: HubServer, tmp_path: Path) -> None:
    async with catalog_of(hub, tmp_path, recheck_s=60.0) as catalog:
        assert catalog.is_available is None
        catalog.expect_questions()  # of which namespace nobody knows
        catalog.use(NAMESPACE)
        await until(lambda: catalog.knows_absent(NAMESPACE, key(100)), "it is listed")
        await until(lambda: catalog.is_available, "it has answered")
        hub.reset_counters()
        catalog.expect_questions()
        await asyncio.sleep(0)
        assert requests(hub) == {}, "it is fresh"
    async with catalog_of(hub, tmp_path, recheck_s=0.5) as catalog:
        catalog.use(NAMESPACE)

        def is_known_now() -> bool:  # a look, or a listing, may take longer than the look counts
            catalog.expect_questions()
            return catalog.knows_absent(NAMESPACE, key(100))

        await until(is_known_now, "it is listed")
        await until(lambda: not catalog.knows_absent(NAMESPACE, key(100)), "and old again")
        await until(is_known_now, "looked at again, long before it is due")


async def test_unknown_keys_cost_nothing_while_the_head_stands_still(hub: HubServer, tmp_path: Path) -> None:
    async with catalog_of(hub, tmp_path, recheck_s=0.0) as catalog:
        await catalog.refresh(NAMESPACE)
        hub.reset_counters()
        for number in range(100, 110):
            assert not await catalog.holds(NAMESPACE, key(number))
        assert set(requests(hub)) == {HEAD}


async def test_many_askers_of_many_unknown_keys_share_their_questions(hub: HubServer, tmp_path: Path) -> None:
    async with catalog_of(hub, tmp_path) as catalog:
        await catalog.refresh(NAMESPACE)
        for is_moved in (False, True):
            if is_moved:
                hub.seed_files(REPO, entry(2))
                # What a rank noticed: the picture may be old.
                catalog.forget(NAMESPACE, key(99), catalog.version(NAMESPACE))
            hub.reset_counters()
            asked = [catalog.holds(NAMESPACE, key(number)) for number in range(2, 102) for _ in range(32)]
            answers = await asyncio.gather(*asked)
            assert sum(answers) == (32 if is_moved else 0)
            await catalog.refresh(NAMESPACE)
            assert sum(requests(hub).values()) <= 3 + 2


async def test_who_comes_while_a_question_is_on_its_way_is_in_the_next(hub: HubServer, tmp_path: Path) -> None:
    hub.seed_files(REPO, entry(2))
    hub.add_fault(r"GET .*/tree/", kind="stall", times=None)  # no listing answers for them
    async with catalog_of(hub, tmp_path) as catalog:
        await catalog.look(NAMESPACE)
        hub.add_fault("POST ", kind="stall", stall_s=0.3, times=1)
        first = asyncio.ensure_future(catalog.holds(NAMESPACE, key(1)))  # noqa: TID251
        await hub.wait_for_requests(PATHS_INFO)
        second = asyncio.ensure_future(catalog.holds(NAMESPACE, key(2)))  # noqa: TID251
        assert await first
        assert await second


async def test_who_comes_in_any_turn_of_the_loop_is_answered(hub: HubServer, tmp_path: Path) -> None:
    hub.seed_files(REPO, entry(2))
    hub.add_fault(r"GET .*/tree/", kind="stall", times=None)
    async with catalog_of(hub, tmp_path) as catalog:
        await catalog.look(NAMESPACE)
        askers = list[asyncio.Task[bool]]()
        # Some come just when a question has ended.
        while requests(hub).get(PATHS_INFO, 0) < 5 and len(askers) < 2_000:
            askers.append(asyncio.ensure_future(catalog.holds(NAMESPACE, key(len(askers)))))  # noqa: TID251
            await asyncio.sleep(0)
        answers = await asyncio.gather(*askers)
        assert [number for number, is_there in enumerate(answers) if is_there] == [1, 2]


async def test_the_first_question_does_not_wait_for_the_look_at_the_head(hub: HubServer, tmp_path: Path) -> None:
    hub.seed_files(REPO, entry(2))
    hub.add_fault(r"GET .*/tree/", kind="stall", times=None)
    async with catalog_of(hub, tmp_path, recheck_s=0.0) as catalog:
        await catalog.look(entries.OLD_NAMESPACE)
        hub.add_fault("HEAD ", kind="stall", times=None)
        yes, no = (asyncio.ensure_future(catalog.holds(NAMESPACE, key(number))) for number in (2, 3))  # noqa: TID251
        await hub.wait_for_requests(PATHS_INFO)
        assert not yes.done()
        hub.seed_files(REPO, entry(3))  # after the question, before the look
        hub.clear_faults()
        assert await yes
        assert await no, "what was denied at another head is asked for again"


async def test_another_hosts_entry_is_seen_at_the_next_miss(hub: HubServer, tmp_path: Path) -> None:
    async with catalog_of(hub, tmp_path, recheck_s=0.0) as catalog:
        for number in range(2, 6):
            assert not await catalog.holds(NAMESPACE, key(number))
            hub.seed_files(REPO, entry(number))
            assert await catalog.holds(NAMESPACE, key(number))
        assert catalog.namespaces_with(key(5)) == [NAMESPACE]


async def test_a_mark_without_a_neff_is_no_entry(hub: HubServer, tmp_path: Path) -> None:
    half = entries.module(7)
    hub.seed_files(REPO, {f"{half}/model.done": b"", f"{half}/model.hlo_module.pb": b"x"})
    async with catalog_of(hub, tmp_path) as catalog:
        await catalog._check_version(NAMESPACE)
        assert await catalog._remote.present(NAMESPACE, [half.key, key(1)]) == {key(1)}


def half(*numbers: int) -> dict[str, bytes]:
    """Entries of which the repo has no more than the graph."""
    return {f"{entries.module(number)}/model.hlo_module.pb": b"hlo" for number in numbers}


async def test_what_a_question_denied_no_listing_of_the_same_head_brings_back(hub: HubServer, tmp_path: Path) -> None:
    hub.seed_files(REPO, half(7))
    async with catalog_of(hub, tmp_path) as catalog:
        hub.add_fault(r"GET .*/tree/", kind="stall")
        assert not await catalog.holds(NAMESPACE, key(7))
        hub.clear_faults()
        await catalog.refresh(NAMESPACE)
        assert catalog.knows(NAMESPACE, key(1))
        assert not catalog.knows(NAMESPACE, key(7))


async def test_what_a_fetch_did_not_find_is_asked_for_no_more(hub: HubServer, tmp_path: Path) -> None:
    hub.seed_files(REPO, half(*range(10, 20)))
    async with catalog_of(hub, tmp_path) as catalog:
        await catalog.refresh(NAMESPACE)
        for number in range(10, 20):
            assert await catalog.holds(NAMESPACE, key(number)), "a folder is there, and nobody has asked more"
            assert await catalog.describe(entries.module(number)) is None
            catalog.forget(NAMESPACE, key(number), catalog.version(NAMESPACE))
        hub.reset_counters()
        for number in range(10, 20):
            assert not await catalog.holds(NAMESPACE, key(number))
        await catalog.refresh(NAMESPACE)
        assert set(requests(hub)) == {HEAD}, "the head stands still"
        assert not any(catalog.knows(NAMESPACE, key(number)) for number in range(10, 20))
        hub.seed_files(REPO, entry(10))
        catalog.forget(NAMESPACE, key(99), catalog.version(NAMESPACE))
        assert await catalog.holds(NAMESPACE, key(10)), "it is compiled now"


async def test_what_a_fetch_did_not_find_at_an_older_version_says_nothing_of_this_one(
    hub: HubServer, tmp_path: Path
) -> None:
    async with catalog_of(hub, tmp_path, recheck_s=0.0) as catalog:
        await catalog.refresh(NAMESPACE)
        before = catalog.version(NAMESPACE)
        hub.seed_files(REPO, entry(7))
        await catalog.refresh(NAMESPACE)
        catalog.forget(NAMESPACE, key(7), before)
        assert await catalog.holds(NAMESPACE, key(7))


async def test_a_remote_confirms_what_it_really_holds(hub: HubServer, tmp_path: Path) -> None:
    hub.seed_files(REPO, entry(2) | half(7))
    async with catalog_of(hub, tmp_path) as catalog:
        await catalog.refresh(NAMESPACE)
        assert catalog.knows(NAMESPACE, key(7)), "as the listing of folders has it"
        hub.reset_counters()
        asked = [key(1), key(2), key(7), key(8)]
        assert await catalog.confirm(NAMESPACE, asked) == {key(1), key(2)}
        assert requests(hub) == {PATHS_INFO: 1}
        assert not catalog.knows(NAMESPACE, key(7))
        await catalog._list(NAMESPACE)
        assert not catalog.knows(NAMESPACE, key(7))
        hub.add_fault("POST ", status=503, times=None)
        with pytest.raises(RemoteUnavailable):
            await catalog.confirm(NAMESPACE, asked)
        assert catalog.knows(NAMESPACE, key(1)), "nobody denied it"


async def test_what_is_denied_while_there_is_no_listing_is_remembered_within_limits(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespaces_module, "_MOST_ABSENT", 3)
    hub.add_fault(r"GET .*/tree/", kind="stall", times=None)
    async with catalog_of(hub, tmp_path) as catalog:
        for number in range(100, 106):
            assert not await catalog.holds(NAMESPACE, key(number))
        assert sum(catalog.knows_absent(NAMESPACE, key(number)) for number in range(100, 106)) == 3


async def test_a_restart_costs_one_look_at_the_head(hub: HubServer, tmp_path: Path) -> None:
    hub.seed_files(REPO, entry(*range(2, 30)))
    async with catalog_of(hub, tmp_path) as catalog:
        await catalog.refresh(NAMESPACE)
    hub.reset_counters()
    async with catalog_of(hub, tmp_path) as catalog:
        assert not await catalog.holds(NAMESPACE, key(500))
        assert catalog.knows(NAMESPACE, key(29))
        assert set(requests(hub)) == {HEAD}


@pytest.mark.timeout(120)
async def test_ten_thousand_keys_are_usable_while_they_are_listed(hub: HubServer, tmp_path: Path) -> None:
    hub.seed_files(REPO, entry(*range(10_000)))
    first, last = key(0), key(9_999)
    hub.add_fault(r"GET .*/tree/.*cursor=", kind="stall")
    async with catalog_of(hub, tmp_path) as catalog:
        catalog.use(NAMESPACE)
        await until(lambda: catalog.knows(NAMESPACE, first), "the first page")
        assert not catalog.knows(NAMESPACE, last), "the listing is not complete"
        assert await catalog.holds(NAMESPACE, last), "asked for itself meanwhile"
        assert not await catalog.holds(NAMESPACE, key(10_001))
        hub.clear_faults()
        await until(lambda: catalog.status()["namespaces"] == 1, "the last page")
        assert catalog.status()["keys"] == 10_000
        hub.reset_counters()
        assert not await catalog.holds(NAMESPACE, key(10_002))
        assert requests(hub) == {}


async def test_a_remote_that_is_away_is_given_a_rest_and_asked_again(hub: HubServer, tmp_path: Path) -> None:
    hub.add_fault("HEAD ", status=503, headers={"Retry-After": "0"}, times=1)
    async with catalog_of(hub, tmp_path) as catalog:
        with pytest.raises(RemoteUnavailable) as away:
            await catalog.holds(NAMESPACE, key(1))
        assert away.value.reason == catalog.trouble == "server-error"
        assert catalog.is_available is False
        asked = sum(requests(hub).values())
        with pytest.raises(RemoteUnavailable):
            await catalog.holds(NAMESPACE, key(1))
        assert sum(requests(hub).values()) == asked, "not asked again at once"
        await until(lambda: catalog.reads.retry_s == 0, "the end of the rest")
        assert await catalog.holds(NAMESPACE, key(1))
        assert catalog.trouble is None


async def test_keys_by_their_beginning(hub: HubServer, tmp_path: Path) -> None:
    hub.seed_files(REPO, entry(1, 2))
    async with catalog_of(hub, tmp_path) as catalog:
        await catalog.refresh(NAMESPACE)
        both = sorted([(NAMESPACE, key(1)), (NAMESPACE, key(2))])
        assert sorted(catalog.keys_starting("MODULE_", 10)) == both
        assert catalog.keys_starting(key(1)[:-2], 10) == [(NAMESPACE, key(1))]
        assert len(catalog.keys_starting("MODULE_", 1)) == 1
        assert catalog.keys_starting("MODULE_x", 10) == []


class Away:
    """A remote of which only what a test says fails, for a reason that is no trouble of the remote's."""

    name = "hub"

    def __init__(self, asked: Callable[[list[str]], Awaitable[None]] | None = None) -> None:
        self.looks, self._asked = 0, asked

    async def prepare(self) -> None:
        return None

    async def version(self, namespace: str) -> str:
        self.looks += 1
        if self._asked is None:
            raise RemoteUnavailable("revision-gone")
        return "one"

    async def keys(self, namespace: str) -> AsyncIterator[list[str]]:
        await asyncio.Event().wait()
        yield []

    async def present(self, namespace: str, keys: Sequence[str]) -> frozenset[str]:
        assert self._asked is not None
        await self._asked(list(keys))
        return frozenset(keys)


@asynccontextmanager
async def catalog_over(remote: Any, folder: Path, poll_s: float = 3600) -> AsyncIterator[Catalog]:
    database, tasks = Database(folder / "state"), Tasks()
    reads = Breakers(time.monotonic).read
    made = Catalog(
        remote,
        tasks,
        Metrics(),
        SavedListings(database),
        poll_s=poll_s,
        clock=time.monotonic,
        recheck_s=60,
        reads=reads,
    )
    tasks.start(made.keep_fresh(), name="keep-fresh")
    try:
        yield made
    finally:
        await tasks.stop(5)
        await asyncio.to_thread(database.close)


async def test_a_failure_that_is_no_trouble_is_not_tried_again_at_once(tmp_path: Path) -> None:
    remote = Away()
    async with catalog_over(remote, tmp_path) as catalog:
        catalog.use(NAMESPACE)
        await until(lambda: remote.looks, "a look")
        for _ in range(1_000):
            await asyncio.sleep(0)
        assert remote.looks <= 2
        assert catalog.trouble is None


async def test_the_failure_of_a_question_is_for_those_who_are_in_it(tmp_path: Path) -> None:
    begun, end, asked = asyncio.Event(), asyncio.Event(), list[list[str]]()

    async def ask(keys: list[str]) -> None:
        asked.append(keys)
        if len(asked) == 1:
            begun.set()
            await end.wait()
            raise RemoteUnavailable("revision-gone")

    async with catalog_over(Away(ask), tmp_path) as catalog:
        await catalog.look(NAMESPACE)
        await until(lambda: catalog._is_restored, "both come in one turn from now on")
        first, second = (asyncio.ensure_future(catalog.holds(NAMESPACE, key(number))) for number in (1, 2))  # noqa: TID251
        await begun.wait()
        third = asyncio.ensure_future(catalog.holds(NAMESPACE, key(3)))  # noqa: TID251
        await asyncio.sleep(0)
        end.set()
        outcomes = await asyncio.gather(first, second, third, return_exceptions=True)
        assert [isinstance(outcome, RemoteUnavailable) for outcome in outcomes] == [True, True, False]
        assert asked == [sorted([key(1), key(2)]), [key(3)]]


async def test_our_own_loading_is_no_part_of_the_remotes_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = list[bool]()

    class Slow(Away):
        async def prepare(self) -> None:
            await asyncio.sleep(0.3)
            loaded.append(True)

    async def ask(keys: list[str]) -> None:
        return None

    monkeypatch.setattr(catalog_module, "LOOK_LIMIT_S", 0.2)
    async with catalog_over(Slow(ask), tmp_path) as catalog:
        await catalog.look(NAMESPACE)
        assert (catalog.version(NAMESPACE), loaded[:1]) == ("one", [True])


async def test_a_later_page_does_not_bring_back_what_was_denied_meanwhile(tmp_path: Path) -> None:
    denied, last_page = asyncio.Event(), asyncio.Event()

    class Paged(Away):
        async def keys(self, namespace: str) -> AsyncIterator[list[str]]:
            yield [key(1), key(2)]
            await denied.wait()
            yield [key(3)]
            await last_page.wait()

        async def present(self, namespace: str, keys: Sequence[str]) -> frozenset[str]:
            return frozenset(keys) - {key(1)}

    async def ask(keys: list[str]) -> None:
        return None

    async with catalog_over(Paged(ask), tmp_path) as catalog:
        catalog.use(NAMESPACE)
        await until(lambda: catalog.knows(NAMESPACE, key(1)), "the first page")
        assert await catalog.confirm(NAMESPACE, [key(1), key(2)]) == {key(2)}
        denied.set()
        await until(lambda: catalog.knows(NAMESPACE, key(3)), "the second")
        assert not catalog.knows(NAMESPACE, key(1))
        last_page.set()
        await until(lambda: catalog.knows_absent(NAMESPACE, key(9)), "the end")
        assert catalog.keys_of(NAMESPACE) == {key(2), key(3)}


class Many(Away):
    """A remote with three namespaces, each with one key; it notes what it is asked."""

    held: Mapping[str, set[str]] = {f"neuronxcc-2.{minor}.1.0+abc": {key(minor)} for minor in (1, 2, 3)}

    def __init__(self) -> None:
        super().__init__()
        self.looked_at, self.listed, self.asked = list[str](), list[str](), list[str]()

    async def version(self, namespace: str) -> str:
        self.looked_at.append(namespace)
        return "one"

    async def namespaces(self) -> list[str]:
        return list(self.held)

    async def keys(self, namespace: str) -> AsyncIterator[list[str]]:
        self.listed.append(namespace)
        yield list(self.held.get(namespace, ()))

    async def present(self, namespace: str, keys: Sequence[str]) -> frozenset[str]:
        self.asked.append(namespace)
        return frozenset(keys) & self.held.get(namespace, set())


async def test_only_namespaces_in_use_are_looked_at_unasked(tmp_path: Path) -> None:
    first, second, third = Many.held
    async with catalog_over(Many(), tmp_path) as catalog:
        for namespace in Many.held:
            await catalog.refresh(namespace)
    remote = Many()  # after a restart
    async with catalog_over(remote, tmp_path, poll_s=0.01) as catalog:
        catalog.use(first)
        await until(lambda: remote.looked_at.count(first) > 3, "some rounds")
        assert set(remote.looked_at) == {first}
        assert catalog.knows(second, key(2)), "what was listed is remembered"
        assert not await catalog.holds(second, key(9))
        begun = len(remote.looked_at)
        await until(lambda: remote.looked_at[begun:].count(first) > 3, "some more")
        assert set(remote.looked_at[begun:]) == {first, second}
        assert third not in remote.looked_at
    assert remote.listed == [], "nothing has changed"


async def test_a_bare_key_is_found_and_its_remotes_other_namespaces_are_not_kept(tmp_path: Path) -> None:
    remote = Many()
    first, second, _ = Many.held
    async with catalog_over(remote, tmp_path, poll_s=0.01) as catalog:
        catalog.use(first)
        await until(lambda: catalog.knows(first, key(1)), "it is listed")
        found = await catalog.find([key(1), key(2), key(9)])
        assert found == {ModuleName(first, key(1)), ModuleName(second, key(2))}
        assert sorted(remote.asked) == sorted(Many.held), "one question each"
        begun = len(remote.looked_at)
        await until(lambda: len(remote.looked_at) > begun + 3, "some rounds")
        assert (set(remote.looked_at), remote.listed) == ({first}, [first])
        assert catalog.status()["namespaces"] == 1


async def test_where_there_is_nothing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces_module, "_EMPTY_KEPT_S", 0.2)
    first = next(iter(Many.held))
    remote = Many()
    async with catalog_over(remote, tmp_path, poll_s=0.01) as catalog:
        await catalog.refresh(first)
        for number in range(20):
            assert not await catalog.holds(f"neuronxcc-9.{number}.0.0+abc", key(1))
        await until(lambda: len(catalog._namespaces) == 1, "only what holds something is kept")
        assert await catalog._saved.load("hub") == {first: ("one", {key(1)})}


async def test_a_large_namespace_comes_and_goes_in_small_parts(tmp_path: Path) -> None:
    """So that nobody else waits for all of it."""

    class Large(Many):
        held: Mapping[str, set[str]] = {NAMESPACE: {key(number) for number in range(30_000)}}

        async def version(self, namespace: str) -> str:
            return f"{len(self.held[namespace])}"

        async def keys(self, namespace: str) -> AsyncIterator[list[str]]:
            yield list(self.held[namespace])

    async with catalog_over(Large(), tmp_path) as catalog:

        async def steps() -> list[int]:
            """How many keys more or fewer there are, turn by turn, until the listing is complete."""
            refreshing = asyncio.ensure_future(catalog.refresh(NAMESPACE))  # noqa: TID251
            seen = [catalog.status()["keys"]]
            while not refreshing.done():
                await asyncio.sleep(0)
                seen.append(catalog.status()["keys"])
            await refreshing
            return [after - before for before, after in itertools.pairwise(seen)]

        came = await steps()
        assert (sum(came), max(came)) == (30_000, 4_000)
        Large.held[NAMESPACE].clear()
        catalog.forget(NAMESPACE, key(99_999), None)
        went = await steps()
        assert (sum(went), min(went)) == (-30_000, -4_000)
