"""When a transfer is not worth waiting for any more: simulated trainers, against what they would do without it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neffd.fetch.pace import LONGEST_WAIT_S, SHORTEST_WAIT_S, Pace, is_lost, limit_s

TICK_S = 0.5


def wait(limit: float, total_bytes: float, speeds: Iterator[float], queued_s: float = 0.0) -> tuple[float, bool]:
    """How long a trainer waits for a transfer with these bytes a second, tick by tick, and whether it gets it."""
    now_s, done_bytes = queued_s, 0.0
    pace = Pace(limit, now_s, 0)
    while now_s < limit:
        now_s, done_bytes = now_s + TICK_S, done_bytes + TICK_S * next(speeds)
        if done_bytes >= total_bytes:
            return now_s, True
        if is_lost(now_s, pace.left_s(now_s, int(done_bytes), int(total_bytes)), limit):
            return now_s, False
    return limit, False


@pytest.mark.parametrize(
    ("compile_s", "limit"), [(None, LONGEST_WAIT_S), (0.0, SHORTEST_WAIT_S), (90.0, 90.0), (9e6, LONGEST_WAIT_S)]
)
def test_what_an_entry_is_worth_waiting_for(compile_s: float | None, limit: float) -> None:
    assert limit_s(compile_s) == limit
    assert limit_s(compile_s, 1.0) <= limit


def test_a_slow_one_is_given_up_after_a_few_seconds() -> None:
    """200 KB at 4 KB a second, against a compile of 5 s; against one of two minutes it is waited for."""
    assert wait(5.0, 200_000, repeat(4_000.0)) == (3.0, False)
    assert wait(120.0, 200_000, repeat(4_000.0)) == (50.0, True)


def test_what_does_not_move_says_nothing() -> None:
    pace = Pace(60.0, 0.0, 100)
    assert [pace.left_s(at / 2, 100, 1_000) for at in range(1, 20)] == [None] * 19
    assert pace.left_s(10.0, 1_000, 1_000) is None
    assert not is_lost(1e9, None, 5.0)


def test_only_its_last_seconds_count() -> None:
    pace = Pace(60.0, 0.0, 0)
    for second in range(1, 11):
        assert (pace.left_s(float(second), 100 * second, 100_000) is None) == (second < 3)
    for second in range(11, 14):
        left_s = pace.left_s(float(second), 1_000 + 10_000 * (second - 10), 100_000)
    assert left_s == pytest.approx(6.9)


LIMITS = st.floats(SHORTEST_WAIT_S, LONGEST_WAIT_S)
SPEEDS = st.lists(st.floats(0, 1e6), min_size=1, max_size=30)


@given(LIMITS, st.integers(1, 10**9), st.floats(1, 1e6), st.floats(0, 100))
@example(5.0, 4, 1.0, 1.8)  # the limit lies between two looks
def test_at_an_even_speed_it_is_right(limit: float, total: int, speed: float, queued_s: float) -> None:
    """Who would get it in time waits for it; who would not has waited for the look at it at most."""
    takes_s = queued_s + total / speed
    waited_s, has_it = wait(limit, total, repeat(speed), queued_s)
    if takes_s < 0.99 * limit - TICK_S:
        assert has_it
        assert waited_s <= takes_s + TICK_S
    elif takes_s > 1.01 * limit + TICK_S:
        assert not has_it
        assert waited_s <= max(queued_s, min(limit + TICK_S, queued_s + max(3.0, limit / 20) + 2 * TICK_S))


@given(LIMITS, st.integers(1, 10**8), SPEEDS)
def test_nobody_waits_longer_than_without_it(limit: float, total: int, speeds: list[float]) -> None:
    """However the bytes come: no longer than for the limit, and no longer than for the entry."""
    waited_s, has_it = wait(limit, total, _on_and_on(speeds))
    came, ticks = 0.0, 0
    for speed in _on_and_on(speeds):
        if came >= total or ticks * TICK_S >= limit:
            break
        came, ticks = came + TICK_S * speed, ticks + 1
    assert waited_s <= max(ticks * TICK_S, TICK_S)
    assert not has_it or came >= total


@given(LIMITS, st.integers(1, 10**8), SPEEDS)
def test_it_is_given_up_only_with_a_reason(limit: float, total: int, speeds: list[float]) -> None:
    """Never before it was watched for long enough, nor where the slowest it ever was would do."""
    waited_s, has_it = wait(limit, total, _on_and_on(speeds))
    if not has_it and waited_s < limit:
        assert waited_s >= max(3.0, limit / 20)
        assert min(speeds) == 0 or total / min(speeds) > limit - TICK_S


def _on_and_on(speeds: list[float]) -> Iterator[float]:
    yield from speeds
    yield from repeat(speeds[-1])
