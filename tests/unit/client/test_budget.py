from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neff.budget import CAPACITY_S, EARNED_PER_S, LEAST_S, WaitingBudget
from neff.patience import CONNECT_S, LATE_S

_FULL_AGAIN_S = CAPACITY_S / EARNED_PER_S


def test_waiting_in_vain_uses_it_up_and_time_brings_it_back() -> None:
    budget = WaitingBudget()
    assert budget.left_s(1000.0) == CAPACITY_S
    assert not budget.wasted(1.0, 1001.0)
    assert budget.left_s(1001.0) == pytest.approx(CAPACITY_S - 1.0)
    assert budget.left_s(1003.0) == pytest.approx(CAPACITY_S - 1.0 + 2 * EARNED_PER_S)
    assert budget.left_s(1001.0 + _FULL_AGAIN_S) == CAPACITY_S


def test_once_spent_nothing_is_left_until_all_of_it_is_back() -> None:
    budget = WaitingBudget()
    assert budget.wasted(CAPACITY_S - LEAST_S + 0.01, 0.0)
    assert not budget.wasted(0.1, 0.0)  # that is known
    for part in range(10):
        assert budget.left_s(part / 10 * (_FULL_AGAIN_S - LEAST_S / EARNED_PER_S)) == 0
    assert budget.left_s(_FULL_AGAIN_S) == CAPACITY_S


def test_an_entry_is_worth_all_of_it() -> None:
    budget = WaitingBudget()
    budget.wasted(600.0, 600.0)
    assert budget.left_s(600.0) == 0
    budget.restore()
    assert budget.left_s(600.0) == CAPACITY_S


def test_a_clock_that_goes_back_brings_and_costs_nothing() -> None:
    budget = WaitingBudget()
    budget.wasted(1.0, 1000.0)
    left_s = budget.left_s(1000.0)
    assert budget.left_s(0.0) == left_s


_Questions = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 5)), max_size=200)


@given(_Questions)
def test_whatever_is_asked_no_more_is_waited_in_vain_than_there_is(questions: list[tuple[float, float]]) -> None:
    """Each question comes some time after the last one and would be answered after some more, never with an entry."""
    budget, now_s = WaitingBudget(), 0.0
    waits: list[tuple[float, float]] = []  # when each ended, and how long it was
    for pause_s, answer_s in questions:
        now_s += pause_s
        left_s = budget.left_s(now_s)
        if left_s:
            assert left_s >= LEAST_S
            waited_s = min(answer_s, left_s)
            now_s += waited_s
            budget.wasted(waited_s, now_s)
            waits.append((now_s, waited_s))
    for first in range(len(waits)):
        began_s = waits[first][0] - waits[first][1]
        total_s = 0.0
        for ended_s, waited_s in waits[first:]:
            total_s += waited_s
            assert total_s <= CAPACITY_S + EARNED_PER_S * (ended_s - began_s) + 1e-6


@given(st.floats(0, 5))
def test_a_hundred_questions_in_a_row_cost_less_than_two_seconds(answer_s: float) -> None:
    budget, now_s = WaitingBudget(), 0.0
    for _ in range(100):
        waited_s = min(answer_s, budget.left_s(now_s))
        now_s += waited_s
        if waited_s:
            budget.wasted(waited_s, now_s)
    assert now_s < 2.0


@given(st.lists(st.floats(0.0001, 0.2), min_size=1, max_size=50))
def test_answers_that_are_quick_beside_the_compiles_never_spend_it(answers_s: list[float]) -> None:
    """10,000 misses, each followed by a compile of 20 times what the answer took."""
    budget, now_s = WaitingBudget(), 0.0
    for number in range(10_000 // len(answers_s)):
        for answer_s in answers_s:
            assert not budget.wasted(answer_s, now_s + answer_s), number
            now_s += answer_s * (1 + 1 / EARNED_PER_S)


def test_ten_thousand_misses_from_memory_in_a_row_do_not_spend_it() -> None:
    budget = WaitingBudget()
    assert not any(budget.wasted(0.000_15, number * 0.000_15) for number in range(10_000))


def test_that_a_daemon_is_hung_can_be_seen() -> None:
    assert CONNECT_S + 1.0 + LATE_S <= CAPACITY_S
