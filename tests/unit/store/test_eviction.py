"""The choice of what goes: never what has to stay, no more than is needed, the least valuable first."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neff.keys import ModuleName
from neffd.store.eviction import Entry, Goal, Kept, Limits, Policy, kept_because, select

NOW = 1_000_000.0
OLD = NOW - 86_400


def entry(number: int, size_bytes: int = 1_000_000, used_at: float = OLD, **facts: object) -> Entry:
    name = ModuleName("neuronxcc-2.20.9961.0+0acef03a", f"MODULE_{number}+d7517139")
    return replace(Entry(name, size_bytes, used_at, copies=1), **facts)  # type: ignore[arg-type]


_FACTS = st.builds(
    Entry,
    name=st.builds(
        ModuleName,
        st.sampled_from(["neuronxcc-2.9.1.0+aa", "neuronxcc-2.20.9961.0+0acef03a"]),
        st.integers(0, 10**6).map("MODULE_{}+d7517139".format),
    ),
    size_bytes=st.integers(0, 10**9),
    used_at=st.floats(0, 2 * NOW),
    compile_s=st.none() | st.floats(0, 1e5),
    copies=st.integers(0, 2),
    copies_away=st.integers(0, 2),
    is_ready=st.integers(0, 5).map(bool),
    is_locked=st.integers(0, 5).map(lambda number: number == 0),
    is_waiting=st.integers(0, 5).map(lambda number: number == 0),
    is_pinned=st.integers(0, 5).map(lambda number: number == 0),
    kept=st.sampled_from([None, None, None, Kept.IN_USE]),
)
_ENTRIES = st.lists(_FACTS, max_size=30, unique_by=lambda found: found.name)
_GOALS = st.builds(Goal, st.integers(0, 10**10), st.integers(0, 40))
_POLICIES = st.builds(Policy, st.floats(0, 1e5), st.booleans(), st.booleans())


@given(_ENTRIES, _GOALS, _POLICIES)
def test_what_has_to_stay_stays(entries: list[Entry], goal: Goal, policy: Policy) -> None:
    chosen = select(entries, goal, policy, NOW)
    for gone in chosen.remove:
        assert gone.is_ready
        assert (gone.is_locked, gone.is_waiting, gone.is_pinned, gone.kept) == (False, False, False, None)
        assert gone.copies or policy.evict_unshared
        assert abs(NOW - gone.used_at) >= policy.protect_s
    may_go = sum(kept_because(found, policy, NOW) is None for found in entries)
    assert chosen.kept.total() == len(entries) - may_go, "every entry that stays has its reason"


@given(_ENTRIES, _GOALS, _POLICIES)
def test_the_goal_is_reached_if_it_can_be_and_by_no_more_than_needed(
    entries: list[Entry], goal: Goal, policy: Policy
) -> None:
    chosen = select(entries, goal, policy, NOW)
    may_go = [found for found in entries if kept_because(found, policy, NOW) is None]
    can_be = sum(found.size_bytes for found in may_go) >= goal.size_bytes and len(may_go) >= goal.entries
    assert chosen.reaches_goal == can_be
    if not chosen.reaches_goal:
        assert set(chosen.remove) == set(may_go), "as near as possible"
    elif chosen.remove:
        without_last = chosen.remove[:-1]
        freed_bytes = sum(found.size_bytes for found in without_last)
        assert freed_bytes < goal.size_bytes or len(without_last) < goal.entries


@given(_ENTRIES, _GOALS, _POLICIES, st.randoms(use_true_random=False))
def test_the_order_of_the_facts_makes_no_difference(
    entries: list[Entry], goal: Goal, policy: Policy, chance: object
) -> None:
    shuffled = list(entries)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert select(entries, goal, policy, NOW) == select(shuffled, goal, policy, NOW)


@given(_ENTRIES, _POLICIES, st.integers(1, 10**10), st.integers(0, 10**10))
def test_a_larger_goal_only_adds(entries: list[Entry], policy: Policy, size_bytes: int, more_bytes: int) -> None:
    less = select(entries, Goal(size_bytes), policy, NOW).remove
    more = select(entries, Goal(size_bytes + more_bytes), policy, NOW).remove
    assert more[: len(less)] == less


@given(
    st.integers(1, 10**13),
    st.integers(1, 10**6),
    st.integers(0, 10**13),
    st.integers(0, 10**13),
    st.integers(0, 10**7),
    st.integers(0, 10**13),
)
def test_no_goal_is_left_once_one_was_reached(
    max_bytes: int, max_entries: int, min_free_bytes: int, held_bytes: int, held: int, free_bytes: int
) -> None:
    limits = Limits(max_bytes, max_entries, min_free_bytes)
    goal = limits.goal(held_bytes, held, free_bytes)
    after = held_bytes - goal.size_bytes, held - goal.entries, free_bytes + goal.size_bytes
    assert not limits.goal(*after)


def test_removal_begins_at_high_water_and_goes_on_to_low_water() -> None:
    limits = Limits(max_bytes=1000, max_entries=100, min_free_bytes=950, high=0.95, low=0.8)
    assert not limits.goal(950, 95, 1000)
    assert limits.goal(951, 0, 1000) == Goal(151, 0)
    assert limits.goal(0, 96, 1000) == Goal(0, 16)
    assert limits.goal(0, 0, 999) == Goal(188, 0)
    assert not Limits().goal(10**15, 10**9, 0), "without limits nothing goes"


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (entry(2, used_at=OLD - 86_400), entry(1)),
        (entry(2, compile_s=10.0), entry(1, compile_s=3600.0)),
        (entry(2, copies=2, compile_s=3600.0), entry(1, compile_s=3600.0)),
        (entry(2, size_bytes=50_000_000), entry(1, size_bytes=500_000)),
        (entry(2, compile_s=3600.0), entry(1, copies=0, compile_s=3600.0)),
    ],
    ids=["longest unused", "quickly compiled", "on two remotes", "large", "had again from a remote"],
)
def test_what_goes_first(first: Entry, then: Entry) -> None:
    policy = Policy(evict_unshared=True)
    assert select([then, first], Goal(1), policy, NOW).remove == (first,)


def test_only_the_number_is_too_large() -> None:
    large, small = entry(1, size_bytes=10**9), entry(2, size_bytes=10)
    assert select([large, small], Goal(entries=1), Policy(), NOW).remove == (small,), "it is had again sooner"


def test_old_compilers_first_where_configured() -> None:
    old = replace(entry(1, used_at=NOW - 1000), name=ModuleName("neuronxcc-2.9.1.0+ffffffff", "MODULE_1+d7517139"))
    new = entry(2, used_at=OLD)
    assert select([old, new], Goal(1), Policy(), NOW).remove == (new,)
    assert select([old, new], Goal(1), Policy(old_versions_first=True), NOW).remove == (old,)


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"is_ready": False}, Kept.NOT_READY),
        ({"is_locked": True}, Kept.LOCKED),
        ({"is_pinned": True}, Kept.PINNED),
        ({"is_waiting": True}, Kept.WAITING),
        ({"used_at": NOW - 599}, Kept.RECENT),
        ({"used_at": NOW + 599}, Kept.RECENT),
        ({"used_at": NOW + 86_400}, None),  # the clock was wrong then, or is now
        ({"copies": 0}, Kept.NOT_SHARED),
        ({"copies": 0, "copies_away": 1}, Kept.REMOTE_AWAY),
        ({"kept": Kept.IN_USE}, Kept.IN_USE),
        ({}, None),
    ],
)
def test_every_reason_to_stay(facts: dict[str, object], why: Kept | None) -> None:
    assert kept_because(entry(1, **facts), Policy(), NOW) is why  # type: ignore[arg-type]
