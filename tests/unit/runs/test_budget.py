"""A source of guesses that turns out wasteful may guess less, and one that is worth it again as much as before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from neffd.runs.budget import Budget, Spending

MOST = 1_000_000


def test_who_uses_nothing_of_it_spoils_nobody_elses() -> None:
    budget = Budget(MOST)
    for _ in range(20):
        budget.judged("good", 0, 1_000, uid=1)
    budget.judged("good", 900, 100, uid=2)
    assert budget.allowance_bytes("good", 1) < MOST / 50
    assert budget.allowance_bytes("good", 2) == budget.allowance_bytes("good", 3) == MOST
    assert budget.status() == {"good": {"allowance_bytes": MOST, "used_bytes": 900, "wasted_bytes": 20_100}}
    for uid in range(5_000):
        budget.judged("good", 0, 1, uid)
    assert len(budget._sources) == 1_000


def test_a_wasteful_source_loses_its_budget_and_nobody_else_does() -> None:
    budget = Budget(MOST)
    for _ in range(3):
        budget.judged("guess", 10, 990)
    budget.judged("good", 900, 100)
    assert budget.allowance_bytes("guess") < MOST / 50
    assert budget.allowance_bytes("good") == MOST


def test_it_gets_it_back_by_being_right() -> None:
    budget = Budget(MOST)
    for _ in range(10):
        budget.judged("guess", 0, 1000)
    assert budget.allowance_bytes("guess") > 0
    for _ in range(10):
        budget.judged("guess", 1000, 0)
    assert budget.allowance_bytes("guess") == MOST


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), max_size=50))
def test_the_budget_stays_within_its_limits(runs: list[tuple[int, int]]) -> None:
    budget = Budget(MOST)
    for used, wasted in runs:
        budget.judged("guess", used, wasted)
        assert 0 < budget.allowance_bytes("guess") <= MOST
    assert budget.status().get("guess", {"used_bytes": 0})["used_bytes"] == sum(used for used, _ in runs)


def test_what_nobody_knows_the_size_of_is_begun_with_care() -> None:
    spending = Spending(100_000_000)
    for number in range(2):
        assert spending.fits(None)
        spending.begun(number, None)
    assert not spending.fits(None)
    for number in range(2):
        spending.landed(number, 1000)
    for number in range(2, 1000):  # what comes is small: so is what will come
        assert spending.fits(None)
        spending.begun(number, None)


@given(st.integers(0, 10**6), st.lists(st.tuples(st.none() | st.integers(0, 10**6), st.integers(0, 10**6))))
def test_beyond_the_limit_goes_one_at_most_where_sizes_are_not_what_was_said(
    most_bytes: int, entries: list[tuple[int | None, int]]
) -> None:
    spending = Spending(most_bytes)
    for number, (stated_bytes, size_bytes) in enumerate(entries):
        if spending.is_over(stated_bytes):
            break
        spending.begun(number, stated_bytes)
        spending.landed(number, size_bytes)
        assert spending.spent_bytes < most_bytes + max(1, size_bytes)
    assert not Spending(None).is_over(10**15)


def test_what_came_does_not_count_against_the_room_that_is_left() -> None:
    spending = Spending(10_000)
    spending.begun("one", 4_000)
    spending.landed("one", 4_000)
    spending.narrow(3_000)
    assert not spending.is_over(3_000)
    assert spending.is_over(3_001)
    spending.narrow(9_000)
    assert spending.is_over(3_001)
