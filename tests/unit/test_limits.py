"""What one user may take: a newcomer always finds some, and whoever is beyond a limit is named."""

from __future__ import annotations

import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neffd import limits
from neffd.limits import CONNECTIONS, FLUSHES, Allowance, Limits, Share, fairly
from neffd.metrics import Metrics
from tests.unit.clock import Clock

UIDS = st.integers(1, 6)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@given(st.lists(st.tuples(UIDS, st.booleans()), max_size=200))
def test_nobody_has_more_than_is_left_and_a_newcomer_finds_some(steps: list[tuple[int, bool]]) -> None:
    share, held = Share(24), dict.fromkeys(range(1, 7), 0)
    for uid, comes in steps:
        if comes:
            left = 24 - sum(held.values())
            assert share.take(uid) is (held[uid] < left)
            held[uid] += held[uid] < left
        elif held[uid]:
            share.give_back(uid)
            held[uid] -= 1
        assert sum(held.values()) < 24
    assert all(share.has_room(uid) for uid, count in held.items() if not count)


def test_one_user_alone_has_half() -> None:
    share = Share(1_000)
    assert sum(share.take(1) for _ in range(2_000)) == 500
    assert sum(share.take(2) for _ in range(2_000)) == 250
    share.give_back(1, 500)
    assert sum(share.take(2) for _ in range(2_000)) == 250, "what others gave back"


def test_a_bound_of_each_is_nobody_elses() -> None:
    share = Share(each=2)
    assert [share.take(uid) for uid in (1, 1, 1, 2)] == [True, True, False, True]
    share.put(1)  # it has one more, whatever it may
    share.give_back(1)
    assert not share.take(1)
    share.give_back(1)
    assert share.take(1)


@given(st.lists(st.tuples(UIDS, st.floats(0, 30)), max_size=100))
def test_over_any_time_no_more_than_in_a_row_and_one_each_period(steps: list[tuple[int, float]]) -> None:
    clock = Clock()
    allowance, done = Allowance(3, 10.0, clock), [(uid, 0.0) for uid in range(0)]
    for uid, pause_s in steps:
        clock.pass_s(pause_s)
        own = [at_s for other, at_s in done if other == uid]
        if allowance.take(uid):
            done.append((uid, clock()))
            for number, since_s in enumerate(own):
                assert len(own) + 1 - number <= 3 + (clock() - since_s) / 10.0 + 1e-6
        else:
            assert own, "the first one always may"


def test_after_a_while_it_may_again(clock: Clock) -> None:
    allowance = Allowance(2, 10.0, clock)
    assert [allowance.take(1) for _ in range(3)] == [True, True, False]
    assert allowance.take(2)
    clock.pass_s(10)
    assert [allowance.take(1) for _ in range(2)] == [True, False]
    clock.pass_s(86_400)
    assert [allowance.take(1) for _ in range(3)] == [True, True, False]
    assert list(allowance._spent_until_s) == [1], "of whom nothing has to be known nothing is kept"


def test_who_was_beyond_a_limit_is_named_for_an_hour(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CONNECTIONS", 2)
    met = Limits(Metrics(), clock, apart={0})
    assert [met.take(met.connections, 7, CONNECTIONS) for _ in range(3)] == [True, False, False]
    clock.pass_s(60)
    assert met.status() == [{"uid": 7, "reason": CONNECTIONS, "times": 2, "ago_s": 60.0}]
    clock.pass_s(3540)
    assert met.status() == []
    met.give_back(met.connections, 7)
    assert met.take(met.connections, 7, CONNECTIONS)


def test_connections_leave_files_for_the_daemons_own_work(clock: Clock) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        few = Limits(Metrics(), clock, apart=())
        assert sum(few.take(few.connections, 7, CONNECTIONS) for _ in range(512)) == 128
        limits.raise_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(before[1], 65_536), before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_users_apart_have_no_limits_and_take_nothing_from_others(clock: Clock) -> None:
    met = Limits(Metrics(), clock, apart={0})
    assert all(met.take(met.connections, 0, CONNECTIONS) for _ in range(5_000))
    assert all(met.may_hurry(0) for _ in range(100))
    met.give_back(met.connections, 0)
    assert sum(met.take(met.connections, 7, CONNECTIONS) for _ in range(5_000)) == limits.MAX_CONNECTIONS // 2
    assert sum(met.may_hurry(7) for _ in range(100)) == limits.FLUSHES_IN_A_ROW
    assert [row["reason"] for row in met.status()] == [CONNECTIONS, FLUSHES]


def test_however_many_are_beyond_a_limit_few_are_shown(clock: Clock) -> None:
    met = Limits(Metrics(), clock)
    for uid in range(1_000):
        met.met(CONNECTIONS, uid)
    assert [row["uid"] for row in met.status()] == list(range(950, 1_000))


def test_the_first_of_whoever_has_the_most_goes_first() -> None:
    assert fairly(["a1", "b1", "a2", "a3", "b2"], lambda item: ord(item[0])) == ["a1", "b1", "a2", "a3", "b2"]
    assert fairly(["b1", "a1", "a2", "a3", "a4"], lambda item: ord(item[0])) == ["a1", "a2", "a3", "b1", "a4"]
    assert fairly([], ord) == []
