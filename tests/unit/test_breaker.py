"""The breaker of a remote against a model: what it lets through, for how long, and what one side tells the other."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, suppress
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from neffd.breaker import FIRST_S, LONGEST_S, SPARE_TRANSFERS, Breaker, BreakerOpen, Breakers, State
from neffd.remotes.base import BEING_REWRITTEN, STILL_LISTING, EntryRefused, RemoteUnavailable
from tests.unit.clock import Clock

_AWAY, _BUSY = "unreachable", "server-error"


class Call:
    """One call of a remote, ended by the test."""

    def __init__(self, breaker: Breaker, *, is_transfer: bool = False) -> None:
        self._attempt: AbstractContextManager[None] = breaker.attempt(is_transfer=is_transfer)
        self._attempt.__enter__()

    def end(self, error: BaseException | None = None) -> None:
        if error is None:
            self._attempt.__exit__(None, None, None)
            return
        with suppress(RemoteUnavailable, asyncio.CancelledError, EntryRefused):
            assert not self._attempt.__exit__(type(error), error, None)


def fail(breaker: Breaker, reason: str = _BUSY, retry_after_s: float | None = None, **kind: Any) -> None:
    Call(breaker, **kind).end(RemoteUnavailable(reason, retry_after_s=retry_after_s))


class BreakerMachine(RuleBasedStateMachine):
    """Calls that begin and end in any order while time goes by; the model is kept in absolute times."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = Breaker(self.clock, jitter=lambda: 1.0)
        # The model: open until `until_s` for `reason`; the probe, which belongs to the latest opening.
        self.reason: str | None = None
        self.until_s = 0.0
        self.pause_s = self.last_pause_s = 0.0
        self.closed_s = self.clock()
        self.openings = 0
        self.probe: Call | None = None
        self.began: dict[Call, tuple[int, float]] = {}

    @property
    def lets_in(self) -> bool:
        return self.reason is None or (self.clock() >= self.until_s and self.probe is None)

    @precondition(lambda self: self.lets_in)
    @rule(target=calls)
    def begin(self) -> Call:
        call = Call(self.breaker)
        self.began[call] = (self.openings, self.clock())
        if self.reason is not None:
            self.probe = call
        return call

    @precondition(lambda self: not self.lets_in)
    @rule()
    def is_refused_at_once(self) -> None:
        with pytest.raises(BreakerOpen) as refused:
            Call(self.breaker)
        assert refused.value.reason == self.reason
        assert refused.value.retry_after_s

    @rule(call=consumes(calls))
    def succeed(self, call: Call) -> None:
        call.end()
        if self._ended(call)[0] == self.openings and self.reason is not None:
            self.reason, self.closed_s = None, self.clock()

    @rule(call=consumes(calls), reason=st.sampled_from([_AWAY, _BUSY]), asked_s=st.none() | st.floats(1, 1000))
    def is_unavailable(self, call: Call, reason: str, asked_s: float | None) -> None:
        call.end(RemoteUnavailable(reason, retry_after_s=asked_s))
        openings, began_s = self._ended(call)
        if openings != self.openings:
            if asked_s is None:
                return
            if self.reason is not None:
                self.until_s = max(self.until_s, self.clock() + asked_s)
                return
        well_s = began_s - self.closed_s
        goes_on = self.reason is not None or well_s < self.last_pause_s
        self.pause_s = min(LONGEST_S, self.pause_s * 2) if goes_on and self.pause_s else FIRST_S
        self.reason = reason
        self.openings += 1
        self.until_s = self.clock() + max(self.pause_s, asked_s or 0.0)
        self.last_pause_s = min(self.until_s - self.clock(), LONGEST_S)

    @rule(call=consumes(calls), error=st.sampled_from([asyncio.CancelledError(), EntryRefused("digest-mismatch")]))
    def ends_without_a_verdict(self, call: Call, error: BaseException) -> None:
        call.end(error)
        self._ended(call)

    @rule(seconds=st.sampled_from([0.25, 1.0, 5.0, 61.0, 1000.0]))
    def wait(self, seconds: float) -> None:
        self.clock.pass_s(seconds)

    @invariant()
    def looks_like_the_model(self) -> None:
        assert self.breaker.reason == self.reason
        is_due = self.clock() >= self.until_s
        expected = State.CLOSED if self.reason is None else State.HALF_OPEN if is_due or self.probe else State.OPEN
        assert self.breaker.state is expected
        assert (self.breaker.retry_s == 0) == self.lets_in
        if self.reason is not None and self.probe is None:
            assert self.breaker.retry_s == pytest.approx(max(0.0, self.until_s - self.clock()))

    def _ended(self, call: Call) -> tuple[int, float]:
        if self.probe is call:
            self.probe = None
        return self.began.pop(call)


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def state(breaker: Breaker) -> State:
    return breaker.state


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def both(clock: Clock) -> Breakers:
    return Breakers(clock, jitter=lambda: 1.0)


@pytest.mark.parametrize("reason", ["rate-limited", "server-error", "timeout", "bad-token"])
def test_trouble_of_one_side_does_not_stop_the_other(both: Breakers, reason: str) -> None:
    fail(both.read, reason, 30.0)
    assert (both.read.state, both.write.state) == (State.OPEN, State.CLOSED)
    fail(both.write, "commit-quota", 300.0)
    assert both.read.retry_s == 30.0


@pytest.mark.parametrize("reason", ["unreachable", "name-not-found", "tls-failed", "no-directory"])
def test_a_host_that_is_away_is_away_for_both(both: Breakers, clock: Clock, reason: str) -> None:
    fail(both.write, reason)
    assert (both.read.reason, both.read.state) == (reason, State.OPEN)
    clock.pass_s(FIRST_S)
    Call(both.read).end()
    assert state(both.read) == State.CLOSED
    assert (both.write.state, both.write.retry_s) == (State.HALF_OPEN, 0.0)


def test_news_that_the_host_is_back_is_told_before_the_other_side_would_look(both: Breakers, clock: Clock) -> None:
    fail(both.read, _AWAY)
    for _ in range(8):
        clock.pass_s(LONGEST_S)
        fail(both.write, _AWAY)
    assert both.write.retry_s == LONGEST_S
    Call(both.read).end()
    assert both.write.retry_s == 0


def test_what_one_side_only_heard_is_over_when_the_other_says_so(both: Breakers, clock: Clock) -> None:
    fail(both.read, _AWAY)
    assert state(both.write) == State.OPEN
    clock.pass_s(FIRST_S)
    Call(both.read).end()
    assert state(both.write) == State.CLOSED, "nobody may have anything to write"


def test_a_store_that_is_away_is_not_the_host(both: Breakers) -> None:
    fail(both.write, _AWAY, is_transfer=True)
    assert (both.write.state, both.read.state) == (State.OPEN, State.CLOSED)


def test_a_few_failed_downloads_do_not_stop_questions(both: Breakers) -> None:
    for _ in range(SPARE_TRANSFERS):
        fail(both.read, "broken-transfer", is_transfer=True)
    assert state(both.read) == State.CLOSED
    Call(both.read, is_transfer=True).end()
    for _ in range(SPARE_TRANSFERS + 1):
        assert state(both.read) == State.CLOSED
        fail(both.read, "broken-transfer", is_transfer=True)
    assert state(both.read) == State.OPEN


def test_a_download_that_meets_the_quota_stops_all_reads(both: Breakers) -> None:
    fail(both.read, "rate-limited", 40.0, is_transfer=True)
    assert both.read.retry_s == 40.0


@pytest.mark.parametrize(
    "error",
    [RemoteUnavailable(BEING_REWRITTEN), RemoteUnavailable(STILL_LISTING), EntryRefused("short-neff"), OSError("disk")],
)
def test_one_broken_entry_is_not_the_remotes_fault(both: Breakers, error: Exception) -> None:
    for _ in range(10):
        with pytest.raises(type(error)), both.read.attempt(is_transfer=True):
            raise error
    assert state(both.read) == State.CLOSED


def test_no_answer_in_time_while_bytes_arrive_is_a_busy_line(both: Breakers, clock: Clock) -> None:
    both.read.moved()
    clock.pass_s(2.5)
    with pytest.raises(RemoteUnavailable, match="timeout"), both.read.attempt():
        raise asyncio.TimeoutError
    assert state(both.read) == State.CLOSED
    clock.pass_s(10)
    with pytest.raises(RemoteUnavailable, match="timeout"), both.read.attempt():
        raise asyncio.TimeoutError
    assert state(both.read) == State.OPEN


def test_a_dead_remote_is_asked_about_once_a_minute_and_heals_within_one(clock: Clock) -> None:
    breaker = Breaker(clock)
    asked = 0
    for _ in range(3600):
        clock.pass_s(1.0)
        if breaker.retry_s == 0:
            asked += 1
            fail(breaker, _AWAY)
    assert asked < 150
    clock.pass_s(LONGEST_S)
    Call(breaker).end()
    assert state(breaker) == State.CLOSED
