"""Will it compile? From what earlier runs used, and where that is now."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import pytest

from neff.keys import ModuleName
from neffd.runs import plans
from neffd.runs.manifests import Manifest, UsedModule
from neffd.runs.plans import Expected
from tests.harness import entries

KEY, OTHER_KEY = "RUN_" + "a" * 32, "RUN_" + "b" * 32
ASKED: dict[str, Any] = {
    "version": 1,
    "model": {"id": "org/model", "type": "llama", "config": {"hidden_size": 8}},
    "shapes": {"batch_size": 1},
    "packages": {"optimum-neuron": "0.4.5"},
    "cores": 8,
}
NAMES = [entries.module(number) for number in range(4)]


def manifest(numbers: Collection[int], ingredients: dict[str, Any] = ASKED, run_key: str = KEY) -> Manifest:
    modules = tuple(UsedModule(NAMES[number].key, 1000, 60.0 if number else None) for number in numbers)
    return Manifest(entries.NAMESPACE, run_key, ingredients, modules)


def planned(expected: Expected, local: Collection[ModuleName] = (), remote: Collection[ModuleName] = ()) -> Any:
    return plans.plan(expected, is_local=lambda name: name in local, is_remote=lambda name: name in remote)


@pytest.mark.parametrize(
    ("local", "remote", "state", "missing"),
    [(4, 0, "warm", 0), (4, 4, "warm", 0), (2, 4, "fetchable", 0), (0, 4, "fetchable", 0), (2, 3, "will-compile", 1)],
)
def test_the_state_of_a_run_of_the_same_key(local: int, remote: int, state: str, missing: int) -> None:
    expected = plans.expect([("here", manifest(range(4)))], [], ASKED)
    told = planned(expected, NAMES[:local], NAMES[:remote])
    assert (told["state"], told["missing"], told["sure"]) == (state, missing, "same-key")
    assert told["local"] + told["remote"] + told["missing"] == told["modules"] == 4
    assert told["from"] == ["here"]


def test_nothing_known_is_said_as_such() -> None:
    told = planned(dataclasses.replace(plans.expect([], [], ASKED), away=("hub",)))
    assert (told["state"], told["sure"], told["modules"], told["away"]) == ("unknown", "none", 0, ["hub"])


def test_times_and_sizes_are_added_up_and_guessed_by_the_mean() -> None:
    expected = plans.expect([("here", manifest(range(4)))], [], ASKED)
    told = plans.plan(expected, is_local=NAMES[3:].__contains__, is_remote=NAMES[2:3].__contains__, bytes_per_s=100)
    assert (told["remote_bytes"], told["compile_s"]) == (1000, 120.0)
    assert told["fetch_s"] == pytest.approx(10.2)


def test_other_shapes_mean_as_many_other_graphs() -> None:
    theirs = {**ASKED, "shapes": {"batch_size": 4}}
    expected = plans.expect([], [("there", manifest(range(3), theirs, OTHER_KEY))], ASKED)
    told = planned(expected, NAMES, NAMES)
    assert (told["state"], told["missing"], told["differs"]) == ("will-compile", 3, ["shapes.batch_size"])
    assert not expected.is_likely


def test_a_layout_that_is_not_stated_is_over_one_core() -> None:
    """So it is in a run key; and what is known of another layout is no word on this one."""
    theirs = {**ASKED, "parallel": {"tensor_parallel_size": 8, "logical_nc_config": 1}}
    expected = plans.expect([], [("there", manifest(range(3), theirs, OTHER_KEY))], ASKED)
    told = planned(expected, NAMES)
    assert (told["state"], told["differs"]) == ("will-compile", ["parallel.tensor_parallel_size"])
    assert told["unsaid"] == ["parallel.logical_nc_config"]
    assert not expected.is_likely


def test_models_of_which_only_a_digest_is_told_are_compared_by_it() -> None:
    first, second = ({**ASKED, "model": {"type": "vit", "config_digest": digit * 32}} for digit in "ab")
    expected = plans.expect([], [("there", manifest(range(3), second, OTHER_KEY))], first)
    assert (expected.differs, expected.is_likely) == (("model.config",), False)


def test_whatever_ingredients_others_state_the_answer_stays_short() -> None:
    theirs = {**ASKED, "shapes": {"batch_size": 1, **{f"{number}\n" + "x" * 2000: 1 for number in range(60)}}}
    told = plans.unsaid(ASKED, [theirs, {**theirs, "task": "t"}])
    assert len(told) == 50
    assert all(len(name) <= 200 and name.isprintable() for name in told)


def test_other_packages_probably_mean_the_same_graphs() -> None:
    theirs = {**ASKED, "packages": {"optimum-neuron": "0.4.4"}}
    expected = plans.expect([], [("there", manifest(range(3), theirs, OTHER_KEY))], ASKED)
    assert expected.is_likely
    assert expected.differs == ("packages.optimum-neuron",)
    assert planned(expected, NAMES)["state"] == "warm"


def test_of_several_the_most_alike_count() -> None:
    far = manifest([0], {**ASKED, "shapes": {"batch_size": 4}, "cores": 2}, "RUN_" + "c" * 32)
    near = manifest([1], {**ASKED, "packages": {"optimum-neuron": "0.4.4"}}, OTHER_KEY)
    also = manifest([2], {**ASKED, "packages": {"optimum-neuron": "0.4.3"}}, "RUN_" + "d" * 32)
    expected = plans.expect([], [("far", far), ("near", near), ("also", also)], ASKED)
    assert set(expected.modules) == {NAMES[1], NAMES[2]}
    assert set(expected.sources) == {"near", "also"}


def test_only_what_is_asked_for_is_compared() -> None:
    assert plans.differences({"model": {"id": "org/model"}}, ASKED) == ()
    assert plans.differences(ASKED, {"model": {"id": "org/model"}}) == (
        "cores",
        "model.config",
        "model.type",
        "packages.optimum-neuron",
        "shapes.batch_size",
    )


def test_contributions_of_several_hosts_are_one() -> None:
    expected = plans.expect([("a", manifest([0, 2])), ("b", manifest([2, 3]))], [], ASKED)
    assert set(expected.modules) == {NAMES[0], NAMES[2], NAMES[3]}
    assert expected.sources == ("a", "b")
