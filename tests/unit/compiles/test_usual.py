from __future__ import annotations

import pytest

from neffd.compiles import usual as usual_module
from neffd.compiles.usual import Compile, Usual
from tests.harness import entries

ONE, TWO, OLD = entries.module(1), entries.module(2), entries.module(3, entries.OLD_NAMESPACE)


def test_nothing_is_usual_before_anything_was_seen() -> None:
    assert Usual().of(ONE) is None


def test_an_entrys_own_time_before_the_typical_one_of_its_compiler() -> None:
    usual = Usual([Compile(ONE, 10.0)])
    usual.note(TWO, 30.0)
    usual.note(TWO, 50.0)
    assert usual.of(ONE) == 10.0
    assert usual.of(TWO) == 50.0
    assert usual.of(entries.module(9)) == 30.0
    assert usual.of(OLD) is None


def test_of_single_entries_the_latest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usual_module, "MOST_ENTRIES", 3)
    usual = Usual(Compile(entries.module(number), float(number)) for number in range(3))
    usual.note(entries.module(0), 10.0)
    usual.note(entries.module(7), 7.0)
    assert [usual.of(entries.module(number)) for number in (0, 2, 7)] == [10.0, 2.0, 7.0]
    assert usual.of(entries.module(1)) == 2.0  # the typical one: its own is forgotten


def test_what_an_entry_is_worth_is_first_what_is_known_of_it() -> None:
    """What was measured here, what it says itself, what other hosts say; then what is usual."""
    usual = Usual([Compile(TWO, 30.0, 1_000), Compile(entries.module(9), 50.0, 1_000)])
    assert usual.worth(ONE, 1_000) == 40.0
    usual.told({ONE: 7.0, TWO: 7.0})
    assert usual.worth(ONE, 1_000) == 7.0
    assert usual.worth(ONE, 1_000, 8.0) == 8.0
    assert usual.worth(TWO, 1_000, 8.0) == 30.0


def test_what_is_known_of_an_entry_is_no_guess() -> None:
    usual = Usual([Compile(TWO, 30.0, 1_000)])
    assert usual.known(ONE) is None
    assert usual.known(ONE, 0.0) == 0.0
    usual.told({ONE: 7.0, TWO: 7.0})
    assert [usual.known(ONE), usual.known(ONE, 8.0), usual.known(TWO, 8.0)] == [7.0, 8.0, 30.0]


def test_what_is_larger_than_usual_takes_longer_and_what_is_smaller_not_less() -> None:
    """A large one given up in vain costs an hour, a small one waited for in vain costs seconds."""
    usual = Usual(Compile(entries.module(number), 10.0 * number, 1_000 * number) for number in range(1, 4))
    sizes = (1, 2_000, 2_000_000)
    assert [usual.worth(entries.module(9), size) for size in sizes] == [20.0, 20.0, pytest.approx(20_000.0)]
    assert usual.worth(OLD, 1_000) is None


def test_without_sizes_nothing_is_usual_for_one_of_any_size() -> None:
    assert Usual([Compile(ONE, 10.0), Compile(TWO, 10.0, 0)]).worth(entries.module(9), 1_000) is None


def test_what_an_earlier_life_knew_is_older_than_what_this_one_has_seen() -> None:
    usual = Usual()
    usual.note(ONE, 9.0, 1_000)
    usual.load([Compile(ONE, 1.0, 1_000), Compile(TWO, 2.0, 1_000)])
    assert [usual.of(name) for name in (ONE, TWO, entries.module(9))] == [9.0, 2.0, 2.0]
