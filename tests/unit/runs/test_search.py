"""Which folders are asked for, and how it is known that there are no others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neffd.runs import layout, search
from tests.hub.gitobjects import tree_id
from tests.unit.runs.golden import DIGEST, NAMESPACE

WANTED = search.Wanted((DIGEST,), (("llama", "org/model"),))
OID = "0123456789abcdef0123456789abcdef01234567"


def test_a_dozen_of_compilers_fit_into_one_request() -> None:
    wanted = search.Wanted(tuple(f"{number:064x}" for number in range(19)), (("llama", "org/model"),))
    one = len(search.version_folders(NAMESPACE)) + len(search.folders(wanted, NAMESPACE, layout.RELEASES))
    assert 12 * one <= 1000


def test_names_that_are_no_folders_are_not_asked_for() -> None:
    wanted = search.Wanted((), (("llama", "../../x"), ("..", "org/model"), ("llama", "/abs")))
    assert search.folders(wanted, NAMESPACE, layout.RELEASES) == []


@given(st.sets(st.sampled_from([*layout.RELEASES, "0.4.6.dev0", "0.10.0"]), max_size=6))
def test_a_registry_is_complete_if_it_holds_only_what_is_known(versions: set[str]) -> None:
    ids = {layout.registry(NAMESPACE, version): OID for version in versions if version in layout.RELEASES}
    ids[layout.registry(NAMESPACE)] = tree_id({}, dict.fromkeys(versions, OID))
    assert search.is_complete(NAMESPACE, ids) == (versions <= set(layout.RELEASES))


@pytest.mark.parametrize(("registry", "complete"), [(None, True), (OID, False), ("no hex", False)])
def test_ids_that_prove_nothing(registry: str | None, complete: bool) -> None:
    ids = {} if registry is None else {layout.registry(NAMESPACE): registry}
    assert search.is_complete(NAMESPACE, ids) == complete
    ids[layout.registry(NAMESPACE, "0.4.5")] = "no hex"
    assert search.is_complete(NAMESPACE, ids) == complete


def test_an_alias_is_listed_only_without_its_digest() -> None:
    def of(version: str) -> list[str]:
        return search.folders(WANTED, NAMESPACE, [version])

    assert search.to_list(of("0.4.5")) == [layout.digest_folder(NAMESPACE, "0.4.5", DIGEST)]
    alias = of("0.4.5")[1:]
    assert search.to_list(alias) == alias
    old = of("0.0.24")
    assert search.to_list(of("0.4.5") + old) == sorted([of("0.4.5")[0], *old])
