from __future__ import annotations

from neffd.compiles.usual import Usual
from tests.harness import entries

ONE, TWO, OLD = entries.module(1), entries.module(2), entries.module(3, entries.OLD_NAMESPACE)


def test_nothing_is_usual_before_anything_was_seen() -> None:
    assert Usual().of(ONE) is None


def test_an_entrys_own_time_before_the_typical_one_of_its_compiler() -> None:
    usual = Usual({ONE: 10.0})
    usual.note(TWO, 30.0)
    usual.note(TWO, 50.0)
    assert usual.of(ONE) == 10.0
    assert usual.of(TWO) == 50.0
    assert usual.of(entries.module(9)) == 30.0
    assert usual.of(OLD) is None
