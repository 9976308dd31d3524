"""Whether an event that we cause ourselves arrives."""

from __future__ import annotations

import pytest

from neffd.publish.canary import EVERY_S, Canary
from tests.unit.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def canary(clock: Clock) -> Canary:
    canary = Canary(clock)
    canary.sent()
    return canary


def looks_until_missing(canary: Canary, clock: Clock, pause_s: float) -> int:
    for number in range(1, 100):
        clock.pass_s(pause_s)
        if canary.look():
            return number
    raise AssertionError("never missing")


def test_the_first_is_due_at_once(clock: Clock) -> None:
    assert Canary(clock).is_due()


def test_one_that_is_heard_is_sent_again_after_a_while(canary: Canary, clock: Clock) -> None:
    clock.pass_s(0.1)
    canary.heard()
    assert not canary.is_due()
    clock.pass_s(EVERY_S)
    assert not canary.look()
    assert canary.is_due()


def test_one_that_is_not_heard_is_missing_once_and_sent_again(canary: Canary, clock: Clock) -> None:
    assert looks_until_missing(canary, clock, 1.0) == 5
    assert canary.is_missing
    assert not canary.look()
    clock.pass_s(EVERY_S)
    assert canary.is_due()
    canary.sent()
    assert canary.is_missing, "until one is heard"
    canary.heard()
    assert not canary.is_missing


def test_a_process_that_was_stopped_has_missed_nothing(canary: Canary, clock: Clock) -> None:
    clock.pass_s(3600)
    assert not canary.look()
    canary.heard()
    assert not canary.is_missing


def test_looks_in_quick_succession_are_one(canary: Canary, clock: Clock) -> None:
    assert looks_until_missing(canary, clock, 0.25) == 20


def test_one_that_could_not_be_sent_says_nothing(canary: Canary, clock: Clock) -> None:
    canary.not_sent()
    clock.pass_s(EVERY_S)
    assert not canary.look()
    assert not canary.is_missing
