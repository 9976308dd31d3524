"""Uploads that never give up and never block: a repo in memory that refuses, fails, and loses answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neff.keys import ModuleName
from neffd.remotes import provenance
from neffd.remotes.base import EntryFailed, OutgoingEntry, PublishResult, RemoteFile, RemoteUnavailable
from neffd.remotes.hub.budget import CommitBudget
from neffd.remotes.hub.commits import Commits, Outcomes
from neffd.remotes.hub.fill import Fill
from neffd.remotes.hub.plan import CommitPlan
from neffd.remotes.hub.workers import HubCallFailed
from tests.harness import entries
from tests.unit.clock import Clock
from tests.unit.remotes.publishing import digests

STORED, ALREADY_THERE = PublishResult.STORED, PublishResult.ALREADY_THERE
REFUSED = EntryFailed("refused-by-hub")


def entry(number: int, seed: int = 0) -> OutgoingEntry:
    name = entries.module(number)
    neff = entries.neff_bytes(seed, 1_100)
    content = {"model.neff": neff, "model.done": b""}
    return OutgoingEntry(name, Path("pinned"), provenance.Provenance(digests(content)))


def answer(status: int, **facts: str) -> HubCallFailed:
    return HubCallFailed({"kind": "HfHubHTTPError", "status": status, "path": "/api/models/a/b/commit/main", **facts})


class Repo:
    """Commits with a parent check, as the Hub makes them; `trouble` is asked before each, and may raise."""

    def __init__(self) -> None:
        self.files: dict[str, RemoteFile] = {}
        self.landed: list[list[ModuleName]] = []
        self.attempts: list[int] = []
        self.trouble: Callable[[list[ModuleName]], Exception | None] = lambda names: None
        self.loses_answers = False

    async def head(self) -> str:
        return str(len(self.landed))

    async def look_up(self, paths: list[str], revision: str) -> Mapping[str, RemoteFile]:
        return {path: self.files[path] for path in paths if path in self.files}

    async def commit(self, plan: CommitPlan, parent: str) -> None:
        names = [entry.name for entry in plan.brings]
        self.attempts.append(len(names))
        error = self.trouble(names)
        if error is not None and not self.loses_answers:
            raise error
        if parent != await self.head():
            raise answer(412)
        for path, content in plan.documents.items():
            self.files[path] = RemoteFile(path.rpartition("/")[2], len(content))
        for path, (going, file) in plan.add.items():
            if file == provenance.FILE_NAME:
                self.files[path] = RemoteFile(file, 1)
            else:
                digest = going.provenance.files[file]
                self.files[path] = RemoteFile(file, digest.size_bytes, digest.sha256)
        self.landed.append(names)
        if error is not None:
            raise error

    def holds(self, name: ModuleName) -> bool:
        return f"{name}/model.done" in self.files


@pytest.fixture
def repo() -> Repo:
    return Repo()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def commits(repo: Repo, clock: Clock) -> Commits:
    return writer(repo, clock)


def writer(repo: Repo, clock: Clock, fill: Fill | None = None) -> Commits:
    budget = CommitBudget(clock, per_hour=1_000_000, burst=1_000)
    return Commits(repo.head, repo.look_up, repo.commit, budget, fill or Fill("alice/cache"), conflict_pause_s=0)


def numbered(outcomes: Outcomes) -> dict[int, PublishResult | EntryFailed]:
    numbers = {entries.module(number): number for number in range(1_000)}
    return {numbers[name]: outcome for name, outcome in outcomes.items() if isinstance(name, ModuleName)}


async def test_all_in_one_commit(repo: Repo, commits: Commits) -> None:
    assert numbered(await commits.bring([entry(n) for n in range(9)])) == dict.fromkeys(range(9), STORED)
    assert repo.attempts == [9]
    assert await commits.bring([]) == {}


async def test_what_is_there_costs_no_commit(repo: Repo, commits: Commits) -> None:
    await commits.bring([entry(1), entry(2)])
    assert numbered(await commits.bring([entry(1), entry(2, seed=7)])) == {1: STORED, 2: ALREADY_THERE}
    assert repo.attempts == [2]


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 30)), st.sampled_from([400, 422]))
def test_a_refused_entry_is_found_and_the_others_go(poison: set[int], status: int) -> None:
    repo, bad = Repo(), {entries.module(number) for number in poison}
    repo.trouble = lambda names: answer(status) if bad & set(names) else None
    outcomes = asyncio.run(writer(repo, Clock()).bring([entry(n) for n in range(31)]))
    assert numbered(outcomes) == {n: REFUSED if n in poison else STORED for n in range(31)}


async def test_a_commit_that_is_too_large_goes_in_parts(repo: Repo, commits: Commits) -> None:
    repo.trouble = lambda names: answer(413) if len(names) > 2 else None
    assert numbered(await commits.bring([entry(n) for n in range(8)])) == dict.fromkeys(range(8), STORED)
    assert sorted(map(len, repo.landed)) == [2, 2, 2, 2]


async def test_one_entry_that_is_too_large_is_parked(repo: Repo, commits: Commits) -> None:
    repo.trouble = lambda names: answer(413) if entries.module(1) in names else None
    assert numbered(await commits.bring([entry(n) for n in range(3)])) == {
        0: STORED,
        1: EntryFailed("too-large"),
        2: STORED,
    }


async def test_a_gateway_gave_up_on_what_landed(repo: Repo, commits: Commits) -> None:
    repo.loses_answers = True
    repo.trouble = lambda names: answer(504) if len(names) > 1 else None
    assert numbered(await commits.bring([entry(n) for n in range(4)])) == dict.fromkeys(range(4), STORED)
    assert repo.attempts == [4], "what landed is seen by looking"


@pytest.mark.parametrize("status", [409, 412])
async def test_a_lost_race_is_run_again(repo: Repo, commits: Commits, status: int) -> None:
    lost = iter([answer(status), answer(status)])
    repo.trouble = lambda names: next(lost, None)
    assert numbered(await commits.bring([entry(1)])) == {1: STORED}
    repo.trouble = lambda names: answer(status)
    with pytest.raises(RemoteUnavailable, match="conflict"):
        await commits.bring([entry(2)])


@pytest.mark.parametrize(
    ("error", "reason"),
    [(answer(401), "bad-token"), (answer(403), "no-write-access"), (RemoteUnavailable("unreachable"), "unreachable")],
    ids=str,
)
async def test_nobodys_fault_stops_at_once(repo: Repo, commits: Commits, error: Exception, reason: str) -> None:
    repo.trouble = lambda names: error
    with pytest.raises(RemoteUnavailable) as raised:
        await commits.bring([entry(n) for n in range(8)])
    assert raised.value.reason == reason
    assert repo.attempts == [8]


async def test_what_was_settled_before_the_trouble_is_told(repo: Repo, commits: Commits) -> None:
    await commits.bring([entry(1)])
    repo.trouble = lambda names: answer(401)
    assert numbered(await commits.bring([entry(1), entry(2)])) == {1: STORED, 2: EntryFailed("bad-token", False)}


@pytest.mark.parametrize(
    ("error", "wait_s"),
    [
        (answer(429, rate_limit='"api";r=0;t=59'), 60),
        (answer(429, message="You have exceeded the rate limit for repository commits (128 per hour)."), 300),
    ],
    ids=["with headers", "commit quota"],
)
async def test_too_many_commits_silence_us(repo: Repo, clock: Clock, error: Exception, wait_s: float) -> None:
    commits = writer(repo, clock)
    repo.trouble = lambda names: error
    with pytest.raises(RemoteUnavailable) as raised:
        await commits.bring([entry(1)])
    assert raised.value.retry_after_s == wait_s
    repo.trouble = lambda names: None
    clock.pass_s(wait_s - 1)
    with pytest.raises(RemoteUnavailable, match="commit-budget"):
        await commits.bring([entry(1)])
    assert repo.attempts == [1]
    clock.pass_s(1)
    assert numbered(await commits.bring([entry(1)])) == {1: STORED}


@pytest.mark.parametrize("error", [answer(500), RemoteUnavailable("stalled"), answer(502)], ids=str)
async def test_an_entry_that_makes_the_hub_fail_holds_up_nobody(repo: Repo, commits: Commits, error: Exception) -> None:
    poison = entries.module(3)
    repo.trouble = lambda names: error if poison in names else None
    waiting = [entry(n) for n in range(16)]
    for _ in range(8):  # the pusher, trying again
        try:
            outcomes = await commits.bring(waiting)
        except RemoteUnavailable:
            continue
        waiting = [going for going in waiting if isinstance(outcomes[going.name], EntryFailed)]
    assert [going.name for going in waiting] == [poison]
    with pytest.raises(RemoteUnavailable):
        await commits.bring(waiting)
    assert numbered(await commits.bring([*waiting, entry(20), entry(21)])) == {
        3: EntryFailed(raised_reason(error), permanent=False),
        20: STORED,
        21: STORED,
    }
    repo.trouble = lambda names: None
    assert numbered(await commits.bring(waiting)) == {3: STORED}


def raised_reason(error: Exception) -> str:
    return error.reason if isinstance(error, RemoteUnavailable) else "server-error"


async def test_a_hub_that_always_fails_is_asked_little(repo: Repo, commits: Commits) -> None:
    repo.trouble = lambda names: answer(503)
    for _ in range(20):
        with pytest.raises(RemoteUnavailable, match="server-error"):
            await commits.bring([entry(n) for n in range(64)])
    assert len(repo.attempts) <= 20 * 2
    repo.trouble = lambda names: None
    while not all(outcome is STORED for outcome in (await commits.bring([entry(n) for n in range(64)])).values()):
        pass
    assert all(repo.holds(entries.module(n)) for n in range(64))


async def test_without_budget_nothing_is_sent(repo: Repo, clock: Clock) -> None:
    commits = Commits(
        repo.head, repo.look_up, repo.commit, CommitBudget(clock, per_hour=1, burst=1), Fill("a/b"), conflict_pause_s=0
    )
    assert numbered(await commits.bring([entry(1)])) == {1: STORED}
    with pytest.raises(RemoteUnavailable) as raised:
        await commits.bring([entry(2)])
    assert (raised.value.reason, raised.value.retry_after_s) == ("commit-budget", 3600)
    assert numbered(await commits.bring([entry(1)])) == {1: STORED}, "looking is free"
    clock.pass_s(3600)
    assert numbered(await commits.bring([entry(2)])) == {2: STORED}


async def test_refusals_do_not_use_up_the_budget(repo: Repo, clock: Clock) -> None:
    commits = Commits(
        repo.head, repo.look_up, repo.commit, CommitBudget(clock, per_hour=3, burst=3), Fill("a/b"), conflict_pause_s=0
    )
    poison = entries.module(0)
    repo.trouble = lambda names: answer(400) if poison in names else None
    outcomes = await commits.bring([entry(n) for n in range(8)])
    assert numbered(outcomes) == {0: REFUSED} | dict.fromkeys(range(1, 8), STORED)
    assert len(repo.landed) == 3


async def test_a_full_namespace_parks_what_is_new(repo: Repo, clock: Clock) -> None:
    fill = Fill("alice/cache", max_entries=10)
    commits = writer(repo, clock, fill)
    await commits.bring([entry(n) for n in range(3)])
    fill.listed(entries.NAMESPACE, 9)
    outcomes = numbered(await commits.bring([entry(n) for n in range(5)]))
    assert outcomes == {0: STORED, 1: STORED, 2: STORED, 3: STORED, 4: EntryFailed("namespace-full")}


async def test_two_writers_lose_nothing(repo: Repo, clock: Clock) -> None:
    first, second = writer(repo, clock), writer(repo, clock)
    mine, theirs = await asyncio.gather(
        first.bring([entry(n, seed=1) for n in range(6)]), second.bring([entry(n, seed=2) for n in range(3, 9)])
    )
    for number in range(9):
        results = [outcomes.get(entries.module(number)) for outcomes in (mine, theirs)]
        assert results.count(STORED) == 1
        assert repo.holds(entries.module(number))


_DOCUMENT = f"{entries.NAMESPACE}/0_RUNS/llama/org/name/RUN_1.json"
_DOCUMENTS = {_DOCUMENT: b"{}"}


async def test_a_document_rides_on_the_commit_of_its_entries(repo: Repo, commits: Commits) -> None:
    outcomes = await commits.bring([entry(1), entry(2)], _DOCUMENTS)
    assert outcomes[_DOCUMENT] == STORED
    assert repo.attempts == [2]
    assert _DOCUMENT in repo.files


async def test_a_document_that_is_there_stays(repo: Repo, commits: Commits) -> None:
    repo.files[_DOCUMENT] = RemoteFile("RUN_1.json", 77)
    assert (await commits.bring([entry(1)], _DOCUMENTS))[_DOCUMENT] == ALREADY_THERE
    assert repo.files[_DOCUMENT].size_bytes == 77
    assert await commits.bring([], _DOCUMENTS) == {_DOCUMENT: ALREADY_THERE}
    assert repo.attempts == [1]


async def test_a_document_makes_no_commit_where_entries_need_none(repo: Repo, commits: Commits) -> None:
    await commits.bring([entry(1)])
    assert _DOCUMENT not in await commits.bring([entry(1)], _DOCUMENTS)
    assert repo.attempts == [1]


async def test_a_document_by_itself_is_one_commit(repo: Repo, commits: Commits) -> None:
    assert await commits.bring([], _DOCUMENTS) == {_DOCUMENT: STORED}
    assert repo.attempts == [0]


@pytest.mark.parametrize(
    "path", ["README.md", f"{entries.NAMESPACE}/MODULE_1/model.neff", "../0_RUNS/x", _DOCUMENT + "/.."]
)
async def test_a_document_goes_nowhere_else(repo: Repo, commits: Commits, path: str) -> None:
    assert path not in await commits.bring([entry(1)], {path: b""})
    assert await commits.bring([], {path: b""}) == {}
    assert path not in repo.files


@pytest.mark.parametrize(
    ("error", "reason", "is_refusal"),
    [
        (answer(400), "refused-by-hub", True),
        (answer(413), "too-large", True),
        (answer(504), "too-large", False),
        (answer(500), "server-error", False),
        (RemoteUnavailable("stalled"), "stalled", False),
    ],
    ids=str,
)
async def test_entries_go_without_a_document_that_the_hub_does_not_take(
    repo: Repo, commits: Commits, error: Exception, reason: str, is_refusal: bool
) -> None:
    commit = repo.commit

    async def picky(plan: CommitPlan, parent: str) -> None:
        if plan.documents:
            raise error
        await commit(plan, parent)

    commits._commit = picky
    outcomes = await commits.bring([entry(n) for n in range(8)], _DOCUMENTS)
    assert numbered(outcomes) == dict.fromkeys(range(8), STORED)
    assert outcomes[_DOCUMENT] == EntryFailed(reason, permanent=is_refusal)
    assert repo.attempts == [8]
    if is_refusal:
        assert await commits.bring([], _DOCUMENTS) == {_DOCUMENT: EntryFailed(reason)}
    else:
        with pytest.raises(RemoteUnavailable):
            await commits.bring([], _DOCUMENTS)


@pytest.mark.parametrize("error", [answer(400), answer(413), answer(500), RemoteUnavailable("worker-died")], ids=str)
async def test_a_document_is_not_blamed_for_an_entry(repo: Repo, commits: Commits, error: Exception) -> None:
    repo.trouble = lambda names: error if entries.module(3) in names else None
    with contextlib.suppress(RemoteUnavailable):
        assert _DOCUMENT not in await commits.bring([entry(3)], _DOCUMENTS)
    assert _DOCUMENT not in await commits.bring([entry(n) for n in range(8)], _DOCUMENTS)


async def test_a_document_goes_along_after_all_when_only_the_size_was_to_blame(repo: Repo, commits: Commits) -> None:
    repo.trouble = lambda names: answer(413) if len(names) > 4 else None
    outcomes = await commits.bring([entry(n) for n in range(8)], _DOCUMENTS)
    assert numbered(outcomes) == dict.fromkeys(range(8), STORED)
    assert outcomes[_DOCUMENT] == STORED


async def test_documents_wait_as_long_as_the_hub_asks(repo: Repo, commits: Commits) -> None:
    repo.trouble = lambda names: answer(503, retry_after="77")
    with pytest.raises(RemoteUnavailable) as caught:
        await commits.bring([], _DOCUMENTS)
    assert (caught.value.retry_after_s or 0) >= 77


async def test_a_document_waits_until_all_entries_are_there(repo: Repo, commits: Commits) -> None:
    repo.trouble = lambda names: answer(400) if entries.module(3) in names else None
    outcomes = await commits.bring([entry(n) for n in range(8)], _DOCUMENTS)
    assert numbered(outcomes) == {**dict.fromkeys(range(8), STORED), 3: REFUSED}
    assert _DOCUMENT not in repo.files


async def test_a_hub_that_is_away_is_no_fault_of_a_document(repo: Repo, commits: Commits) -> None:
    repo.trouble = lambda names: RemoteUnavailable("unreachable")
    for going in ([entry(1)], []):
        with pytest.raises(RemoteUnavailable, match="unreachable"):
            await commits.bring(going, _DOCUMENTS)
    assert repo.attempts == [1, 0]
