"""Which namespaces of a remote are remembered, and which are looked at unasked."""

from __future__ import annotations

import pytest

from neffd.catalog import namespaces as module
from neffd.catalog.namespaces import Namespaces
from tests.unit.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def known(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Namespaces:
    """With room for four, of which two may be used."""
    monkeypatch.setattr(module, "_MOST", 4)
    monkeypatch.setattr(module, "_MOST_USED", 2)
    return Namespaces(clock)


def ask(known: Namespaces, *names: str) -> None:
    for name in names:
        with known.asked_about(name):
            pass


def names(known: Namespaces) -> set[str]:
    return {name for name, _ in known.items()}


def polled(known: Namespaces) -> set[str]:
    return {name for name, _ in known.polled()}


def test_of_too_many_the_one_goes_that_nobody_asked_about_for_longest(known: Namespaces, clock: Clock) -> None:
    for name in ("a", "b", "c", "d"):
        ask(known, name)
        clock.pass_s(1)
    ask(known, "a")
    clock.pass_s(1)
    ask(known, "e")
    assert names(known) == {"a", "c", "d", "e"}


def test_what_was_never_asked_about_goes_first(known: Namespaces, clock: Clock) -> None:
    ask(known, "a")
    known.restore({"x": ("v", {"key"}), "y": ("v", {"key"})})
    ask(known, "b", "c")
    assert names(known) == {"a", "y", "b", "c"}
    assert known.dropped() == {"x"}, "what is kept of it can go as well"
    assert known.dropped() == set()


def test_what_is_used_stays_as_long_as_that_is_not_too_much(known: Namespaces, clock: Clock) -> None:
    assert known.use("a")
    assert not known.use("a")
    assert known.use("b")
    assert not known.use("c"), "anybody can make folders"
    ask(known, *map(str, range(20)))
    assert names(known) == {"a", "b", "18", "19"}
    clock.pass_s(1e6)
    known.drop_empty()
    assert names(known) == polled(known) == {"a", "b"}


def test_what_is_being_asked_about_stays(known: Namespaces, clock: Clock) -> None:
    with known.asked_about("a") as first:
        clock.pass_s(1e6)
        ask(known, *map(str, range(20)))
        known.drop_empty()
        assert known.of("a") is first
    clock.pass_s(1e6)
    known.drop_empty()
    assert names(known) == set()


def test_what_was_asked_about_in_the_last_hours_is_looked_at(known: Namespaces, clock: Clock) -> None:
    known.restore({"old": ("v", {"key"}), "asked": ("v", {"key"})})
    known.use("used")
    assert polled(known) == {"used"}
    ask(known, "asked")
    clock.pass_s(3 * 3600)
    assert polled(known) == {"used", "asked"}
    clock.pass_s(2 * 3600)
    assert polled(known) == {"used"}
    assert names(known) == {"old", "used", "asked"}, "a restart would not know more"


def test_where_there_is_nothing_is_soon_forgotten(known: Namespaces, clock: Clock) -> None:
    ask(known, "empty", "full")
    known.of("full").keys.add("key")
    known.of("empty").listed = "v"
    known.drop_empty()
    assert names(known) == {"empty", "full"}, "who asks for many keys gets its answers from memory"
    clock.pass_s(700)
    known.drop_empty()
    assert names(known) == {"full"}
    assert known.dropped() == {"empty"}


def test_what_comes_again_keeps_what_was_kept(known: Namespaces, clock: Clock) -> None:
    known.restore({"a": ("v", set())})
    known.drop_empty()
    known.of("a")
    assert known.dropped() == set()


def test_what_was_learnt_before_the_earlier_life_was_read_counts(known: Namespaces, clock: Clock) -> None:
    known.use("a")
    known.of("a").keys.add("new")
    known.restore({"a": ("v1", {"old"})})
    assert polled(known) == {"a"}
    assert known.of("a").keys == {"old", "new"}
    known.of("a").listed = "v2"
    known.restore({"a": ("v1", {"older"})})
    assert (known.of("a").listed, known.of("a").keys) == ("v2", {"old", "new"})


def test_the_age_is_that_of_what_is_looked_at(known: Namespaces, clock: Clock) -> None:
    assert known.status()["age_s"] is None
    known.of("a").checked_at = clock()
    clock.pass_s(5)
    assert known.status()["age_s"] == 5
    known.use("b")
    known.of("b").checked_at = clock()
    clock.pass_s(1)
    assert known.status() == {"namespaces": 0, "keys": 0, "age_s": 1}
