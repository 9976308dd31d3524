"""A source of guesses that turns out wasteful may guess less, and one that is worth it again as much as before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from neffd.runs.budget import Budget

MOST = 1_000_000


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
