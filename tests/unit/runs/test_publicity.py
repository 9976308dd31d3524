"""Who is public: believed for as long as the answer holds, and private until there is one."""

from __future__ import annotations

import pytest

from neffd.runs import publicity
from neffd.runs.identity import PRIVATE, Identity
from neffd.runs.owners import Owners, is_any_private, of_manifest
from neffd.runs.publicity import Publicity, Seen
from tests.harness import entries
from tests.unit.clock import Clock

MODEL = "org/model"
NAME, OTHER = entries.module(1), entries.module(2)


@pytest.mark.parametrize(
    ("seen", "holds_s", "is_public"),
    [(Seen.PUBLIC, 86_400, True), (Seen.NOT_PUBLIC, 600, False), (Seen.NO_ANSWER, 60, False)],
)
def test_an_answer_holds_for_a_while(seen: Seen, holds_s: float, *, is_public: bool) -> None:
    clock = Clock()
    known = Publicity(clock)
    assert (known.is_public(MODEL), known.is_worth_asking(MODEL)) == (False, True)
    known.note(MODEL, seen)
    clock.pass_s(holds_s - 1)
    assert (known.is_public(MODEL), known.is_worth_asking(MODEL)) == (is_public, False)
    clock.pass_s(1)
    assert (known.is_public(MODEL), known.is_worth_asking(MODEL)) == (False, True)


@pytest.mark.parametrize(("asked_s", "left_alone_s"), [(None, 60), (1, 60), (300, 300), (10**6, 600)])
def test_a_hub_that_wants_to_be_left_alone_is(asked_s: float | None, left_alone_s: float) -> None:
    clock = Clock()
    known = Publicity(clock)
    known.note(MODEL, Seen.NO_ANSWER, asked_s)
    clock.pass_s(left_alone_s - 1)
    assert not known.is_worth_asking(MODEL)
    clock.pass_s(1)
    assert known.is_worth_asking(MODEL)


@pytest.mark.parametrize("text", ["", "a/b/c", "../x", "a/..", "a b", "a?x=1", "-a/b", "a/b#c", "x" * 100, "a\n", "/a"])
def test_what_is_no_models_id_is_asked_of_nobody(text: str) -> None:
    assert not Publicity(Clock()).is_worth_asking(text)


def test_so_many_models_are_asked_for_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publicity, "MAX_MODELS", 2)
    clock = Clock()
    known = Publicity(clock)
    known.note("a", Seen.PUBLIC)
    known.note("b", Seen.NOT_PUBLIC)
    assert not known.is_worth_asking("c")
    clock.pass_s(600)
    assert known.is_worth_asking("c")
    assert known.is_public("a")


@pytest.mark.parametrize(
    ("identity", "owner"),
    [
        (Identity("one", "RUN_a", {"model": {"id": MODEL}}), MODEL),
        (Identity("one", "RUN_a", {"model": {"id": MODEL}}, is_private=True), PRIVATE),
        (Identity("one", "RUN_a", {"model": {"config": {}}}), None),
        (Identity("one", "RUN_a", {"inferred": {"command": "ab"}}), None),
        (Identity("one", "RUN_a", {}), PRIVATE),  # too long to be told: of which model, nobody can find out
        (Identity("one"), None),
    ],
)
def test_whose_a_run_is(identity: Identity, owner: str | None) -> None:
    assert identity.owner == owner


def test_a_module_is_everybodys_who_used_it() -> None:
    owners = Owners()
    owners.note([NAME], Identity("one"))
    assert owners.of(NAME) == frozenset()
    owners.note([NAME, OTHER], Identity("one", "RUN_a", {"model": {"id": MODEL}}))
    owners.load([(NAME, "org/other"), (NAME, PRIVATE)])
    assert owners.of(OTHER) == {MODEL}
    assert owners.of(NAME) == {MODEL, "org/other", PRIVATE}
    assert [is_any_private(owners.of(name)) for name in (NAME, OTHER)] == [True, False]
    assert of_manifest({"model": {"id": MODEL}}, is_private=False) == {MODEL}
    assert of_manifest({"inferred": {}}, is_private=False) == frozenset()
    assert is_any_private(of_manifest({"model": {"id": MODEL}}, is_private=True))
