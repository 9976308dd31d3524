"""Whoever says when to look again finds something to do then, however long the machine has been up.

A time plus a pause less that time is not always that pause: what stores one and compares the other sleeps once more,
for nothing or for ever. So everything that waits for a time is driven here at uptimes from a second to three years,
and woken when it asked to be.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neff.backoff import BackOff
from neff.budget import CAPACITY_S, EARNED_PER_S, WaitingBudget
from neff.patience import FetchPatience
from neffd.breaker import Breaker
from neffd.care.pending import Waiting
from neffd.fetch.flight import Answer, Flights
from neffd.fetch.watching import Watching
from neffd.publish.batch import Batcher, Item, Limits
from neffd.publish.canary import Canary
from neffd.publish.lookout import Lookout
from neffd.publish.settle import Settling
from neffd.publish.watch import Watch
from neffd.pulse import Piecework, What
from neffd.remotes.base import RUNS_FOLDER, PublishResult, RemoteFile, RemoteUnavailable
from neffd.remotes.hub.budget import CommitBudget
from neffd.remotes.hub.commits import Commits
from neffd.remotes.hub.fill import Fill
from neffd.remotes.hub.plan import CommitPlan
from neffd.remotes.hub.quotas import API, Quotas
from neffd.retry import Backoff
from neffd.serve.status import Problems
from neffd.slots import Line
from neffd.store.root import CacheRoot
from tests.harness import entries
from tests.unit.clock import Clock

uptimes = st.floats(1.0, 3 * 365 * 86_400.0)
pauses = st.floats(0.001, 3600.0) | st.sampled_from([0.1, 0.2, 0.3, 1.1, 36.0, 3600.0])
NAME = entries.module(1)


def check_is_due_when_it_says(clock: Clock, due_in_s: Callable[[], float | None]) -> None:
    """Sleep as asked. What is left by rounding may be asked for once more: that is a moment, and no busy loop."""
    for _ in range(2):
        wait_s = due_in_s()
        assert wait_s is not None
        clock.pass_s(wait_s)
    assert due_in_s() == 0


@given(uptimes, pauses, pauses, pauses)
def test_a_batch(uptime_s: float, quiet_s: float, max_delay_s: float, waited_s: float) -> None:
    clock = Clock(uptime_s)
    batcher = Batcher(Limits(quiet_s, max_delay_s, 1 << 30, 1000), clock, lambda: waited_s)
    batcher.add(Item(1, 1, 1, 0.0))
    check_is_due_when_it_says(clock, lambda: batcher.due_in_s)
    assert batcher.take()
    assert batcher.due_in_s is None


@given(uptimes, pauses, st.floats(0, 1))
def test_a_pause_after_a_failure(uptime_s: float, retry_after_s: float, jitter: float) -> None:
    clock = Clock(uptime_s)
    backoff = Backoff(1.0, 60.0, clock, lambda: jitter)
    backoff.failed(retry_after_s)
    check_is_due_when_it_says(clock, lambda: backoff.wait_s)


@given(uptimes, pauses, st.floats(0, 1))
def test_a_remote_that_is_given_a_rest(uptime_s: float, retry_after_s: float, jitter: float) -> None:
    clock = Clock(uptime_s)
    breaker = Breaker(clock, lambda: jitter)
    with pytest.raises(RemoteUnavailable), breaker.attempt():
        raise RemoteUnavailable("server-error", retry_after_s=retry_after_s)
    check_is_due_when_it_says(clock, lambda: breaker.retry_s)
    with breaker.attempt():
        pass
    assert breaker.reason is None


@given(uptimes, st.integers(2, 200), st.integers(1, 20), st.integers(0, 250))
def test_a_commit_that_waits_for_the_budget(uptime_s: float, per_hour: int, burst: int, waits: int) -> None:
    """The pusher waits for its breaker, which was told how long the budget wants to be left alone."""
    clock = Clock(uptime_s)
    budget, breaker = CommitBudget(clock, per_hour, burst), Breaker(clock, lambda: 0.0)
    _spend_all(budget)
    for _ in range(waits):
        check_is_due_when_it_says(clock, lambda: budget.wait_s)
        _spend_all(budget)
    commits, document = _commits(budget), {f"{NAME.namespace}/{RUNS_FOLDER}/RUN_1/a.json": b"{}"}
    with pytest.raises(RemoteUnavailable, match="commit-budget"), breaker.attempt():
        asyncio.run(commits.bring([], document))
    check_is_due_when_it_says(clock, lambda: breaker.retry_s)
    with breaker.attempt():  # or the next pause would be longer, as for a remote that goes on failing
        assert list(asyncio.run(commits.bring([], document)).values()) == [PublishResult.STORED]


def _spend_all(budget: CommitBudget) -> None:
    while budget.wait_s == 0:
        budget.spend()


def _commits(budget: CommitBudget) -> Commits:
    async def head() -> str:
        return "0" * 40

    async def look_up(paths: list[str], revision: str) -> dict[str, RemoteFile]:
        return {}

    async def commit(plan: CommitPlan, parent: str) -> None:
        assert plan.documents

    return Commits(head, look_up, commit, budget, Fill("org/repo"))


@given(uptimes, pauses)
def test_what_the_hub_asked_for_is_over_when_it_said(uptime_s: float, seconds: float) -> None:
    clock = Clock(uptime_s)
    budget = CommitBudget(clock)
    budget.hold(seconds)
    check_is_due_when_it_says(clock, lambda: budget.held_s)


@given(uptimes, st.sampled_from([0.1, 0.3, 1.0, 2.0, 7.7]), st.booleans())
def test_an_entry_that_settles(uptime_s: float, settle_s: float, is_ready: bool) -> None:
    clock = Clock(uptime_s)
    settling = Settling(settle_s, clock)
    has_settled, looks = settling.saw(NAME, 1, is_ready=is_ready), 1
    while not has_settled and looks < 100:
        check_is_due_when_it_says(clock, lambda: settling.due_in_s)
        assert settling.due() == [NAME]
        has_settled, looks = settling.saw(NAME, 1, is_ready=is_ready), looks + 1
        assert settling.due_in_s != 0, "not at once again"
    assert has_settled == is_ready
    assert not is_ready or looks <= math.ceil(settle_s / 0.5) + 2


@given(uptimes, st.lists(st.sampled_from(["heard", "not_sent", "again"]), max_size=10))
def test_a_sign_that_events_come(uptime_s: float, answers: list[str]) -> None:
    clock = Clock(uptime_s)
    canary = Canary(clock)
    for answer in answers:
        check_is_due_when_it_says(clock, lambda: canary.due_in_s)
        assert canary.is_due()
        canary.sent()
        assert canary.due_in_s > 0
        if answer != "heard":
            check_is_due_when_it_says(clock, lambda: canary.due_in_s)
            canary.look()
            assert canary.due_in_s > 0, "not at once again"
        getattr(canary, answer)()
        assert canary.due_in_s > 0


@given(uptimes, st.lists(st.tuples(st.booleans(), st.sampled_from(["remote-unavailable", "refused"])), min_size=1))
def test_a_graph_that_waits_for_another_try(uptime_s: float, tries: list[tuple[bool, str]]) -> None:
    clock = Clock(uptime_s)
    waiting = Waiting(clock)
    waiting.add(NAME)
    for is_late, reason in tries:
        assert waiting.due(lambda name: True) == [NAME]
        waiting.answered(NAME, Answer(False, reason))
        assert waiting.due(lambda name: True) == []
        clock.pass_s((30.0 if reason == "remote-unavailable" else 600.0) + is_late)


@given(uptimes, pauses)
def test_a_transfer_that_does_not_move(uptime_s: float, describe_s: float) -> None:
    clock = Clock(uptime_s)

    async def overdue() -> None:
        flights = Flights(clock)
        flight, _ = flights.join(NAME)
        line = Line(1, 1)
        watching = Watching(flight, flights, line, clock, stall_s=1.0, describe_s=describe_s)
        assert watching.overdue() is None
        clock.now_s = math.nextafter(uptime_s + describe_s, math.inf)
        assert watching.overdue() is not None

    asyncio.run(overdue())


@given(uptimes, st.integers(1, 3600))
def test_a_quota_s_window(uptime_s: float, reset_s: int) -> None:
    clock = Clock(uptime_s)
    quotas = Quotas(clock)
    quotas.note(f'"api";r=0;t={reset_s}', "")
    quota = quotas.get(API)
    assert quota is not None
    clock.now_s = quota.resets_at
    assert quotas.get(API) is None


@given(uptimes, pauses)
def test_work_that_hangs(uptime_s: float, limit_s: float) -> None:
    """Nobody sleeps until then: it is told at the first look that is late enough, or at the next."""
    clock = Clock(uptime_s)
    work = Piecework(limit_s, clock, look_every_s=limit_s)
    found = []
    for _ in range(4):
        finding = work.look(uptime_s)
        found += [finding.what] if finding is not None else []
        clock.pass_s(limit_s)
    assert found == [What.SILENT]


@given(uptimes, st.none() | st.floats(0.001, 5.0))
def test_a_trainer_that_hears_nothing_takes_the_daemon_for_hung(uptime_s: float, alive_s: float | None) -> None:
    """When the wait ends because nothing was heard, and not only some moment later."""
    patience = FetchPatience(uptime_s, alive_s)
    silence_s = 3.0 if alive_s is None else alive_s + 0.5
    assert patience.is_hung(patience.deadline_s) == (min(3.0, silence_s) >= min(2.5, silence_s))


@given(uptimes, st.integers(1, 8))
def test_a_daemon_that_failed_is_tried_once_its_period_is_over(uptime_s: float, failures: int) -> None:
    backoff, now_s = BackOff(), uptime_s
    for number in range(failures):
        backoff.failed(now_s, now_s)
        period_s = min(10.0 * 2**number, 300.0)
        assert not backoff.admits(math.nextafter(now_s + period_s, 0))
        now_s += period_s
        assert backoff.admits(now_s)


@given(uptimes, st.integers(1, 1000))
def test_a_budget_that_was_spent_is_back_when_it_is_earned(uptime_s: float, looks: int) -> None:
    budget = WaitingBudget()
    budget.left_s(uptime_s)
    assert budget.wasted(CAPACITY_S, uptime_s)
    earned_after_s = CAPACITY_S / EARNED_PER_S
    for look in range(1, looks + 1):
        left_s = budget.left_s(uptime_s + earned_after_s * look / looks)
    assert left_s == 0 or left_s == CAPACITY_S
    assert budget.left_s(uptime_s + earned_after_s + 0.001) == CAPACITY_S


class _Refused(Watch):
    """The kernel gives no inotify instance."""

    def start(self) -> None:
        raise OSError(24, "Too many open files")


@pytest.fixture(params=["gone", "no-instance", "well"])
def looking(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Lookout, Clock]]:
    async def in_worker(work: Callable[[], object]) -> object:
        return work()

    root, clock = CacheRoot(tmp_path / "cache"), Clock()
    watch = (_Refused if request.param == "no-instance" else Watch)(lambda path, is_gone: None, lambda: None)
    if request.param == "gone":
        root.path.rmdir()
    yield Lookout(root, watch, in_worker, Problems("cache"), clock), clock  # type: ignore[arg-type]
    watch.stop()


async def test_a_look_at_the_directory_is_not_wanted_again_at_once(looking: tuple[Lookout, Clock]) -> None:
    """Whatever it finds: the one that looks would do nothing else."""
    watching, clock = looking
    for uptime_s in (1.0, 1000.0, 40_000.1, 1e6 / 3, 9e7 / 7):
        clock.now_s = uptime_s
        for _ in range(20):
            check_is_due_when_it_says(clock, lambda: watching.due_in_s)
            await watching.look()
            assert watching.due_in_s > 0
