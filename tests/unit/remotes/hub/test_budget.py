"""Commits within the Hub's quota, and what its headers say about waiting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neffd.remotes.hub.budget import CommitBudget, retry_after_s
from tests.unit.clock import Clock

HOUR_S = 3600.0


@pytest.mark.parametrize(
    ("rate_limit", "retry_after", "expected_s"),
    [
        ('"api";r=0;t=41', "", 42.0),
        ('"api" ; r=0 ; t=41', "7", 42.0),
        ('"api";r=3;t=41', "", None),
        ('"api";r=3;t=41', "7", 8.0),
        ("", "7", 8.0),
        ("", "0", 1.0),
        ("", "", None),
        ("", "Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("", "-5", None),
        ("", "1e9", None),
        ("", "٣", None),  # a digit, but none of HTTP's
        ("", "999999", HOUR_S),
        ('"api";r=0;t=999999', "", HOUR_S),
        ("nonsense", "nonsense", None),
    ],
)
def test_headers_of_an_answer(rate_limit: str, retry_after: str, expected_s: float | None) -> None:
    assert retry_after_s(rate_limit, retry_after) == expected_s


@given(st.lists(st.floats(0, 300), min_size=1, max_size=400), st.integers(1, 200), st.integers(1, 300))
def test_no_hour_holds_more_commits_than_allowed(pauses_s: list[float], per_hour: int, burst: int) -> None:
    clock = Clock()
    budget = CommitBudget(clock, per_hour, burst)
    made: list[float] = []
    for pause_s in pauses_s:
        clock.pass_s(pause_s)
        if budget.wait_s == 0:
            budget.spend()
            made.append(clock.now_s)
    for position, first in enumerate(made):
        assert sum(first <= later < first + HOUR_S for later in made[position:]) <= per_hour


@given(st.lists(st.floats(0, 900), max_size=60), st.integers(2, 50))
def test_after_the_wait_it_says_a_commit_fits(pauses_s: list[float], per_hour: int) -> None:
    clock = Clock()
    budget = CommitBudget(clock, per_hour, burst=2)
    for pause_s in pauses_s:
        clock.pass_s(pause_s)
        clock.pass_s(budget.wait_s)
        assert budget.wait_s == pytest.approx(0, abs=1e-6)
        budget.spend()


def test_a_burst_is_free_then_commits_are_spaced() -> None:
    budget = CommitBudget(Clock(), per_hour=110, burst=10)
    for _ in range(10):
        assert budget.wait_s == 0
        budget.spend()
    assert budget.wait_s == pytest.approx(36)


def test_a_refused_attempt_costs_nothing() -> None:
    budget = CommitBudget(Clock(), per_hour=1, burst=1)
    budget.spend()
    budget.give_back()
    assert budget.wait_s == 0
    budget.give_back()
    assert budget.wait_s == 0


def test_what_the_hub_asks_for_holds_whatever_the_budget_says() -> None:
    clock = Clock()
    budget = CommitBudget(clock)
    assert budget.held_s == 0
    budget.hold(300)
    budget.hold(10)  # a shorter wish does not end the longer one
    assert (budget.held_s, budget.wait_s) == (300, 300)
    clock.pass_s(300)
    assert budget.wait_s == 0
