"""How the flags of two modules differ, and that what is on disk is read with care."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neffd.care.nearest import difference, read_flags, same_graph
from neffd.store.root import CacheRoot
from tests.harness import entries


@pytest.mark.parametrize(
    ("asked", "other", "expected"),
    [
        (["-a", "-b"], ["-a", "-c"], {"only_asked": ["-b"], "only_other": ["-c"]}),
        (["-a"], ["-a", "-a"], {"only_asked": [], "only_other": ["-a"]}),
        (["-a", "-b"], ["-b", "-a"], {"only_asked": [], "only_other": [], "other_order": True}),
        (None, ["-a"], {"flags": ["-a"]}),
        (["-a"], None, {}),
        (None, None, {}),
    ],
)
def test_differences(asked: list[str] | None, other: list[str] | None, expected: dict[str, object]) -> None:
    assert difference(asked, other) == expected


@given(st.lists(st.text(max_size=8), max_size=60), st.lists(st.text(max_size=8), max_size=60))
def test_a_difference_is_bounded_and_printable(asked: list[str], other: list[str]) -> None:
    shown = difference(asked, other)
    flags = [flag for part in ("only_asked", "only_other") for flag in shown[part]]
    assert len(flags) <= 80
    assert all(flag.isprintable() for flag in flags)


def test_flags_of_both_generations_and_of_neither(tmp_path: Path) -> None:
    root = CacheRoot(tmp_path / "cache")
    new, old, broken = entries.module(1), entries.module(2, entries.OLD_NAMESPACE), entries.module(3)
    entries.write(root.path, new, {"compile_flags.json": json.dumps(["--a", "b c"]).encode()})
    entries.write(root.path, old, {"compile_flags.txt": b"--a b"})
    entries.write(root.path, broken, {"compile_flags.json": b"[" * 60_000})
    assert read_flags([root], new) == ["--a", "b c"]
    assert read_flags([root], old) == ["--a", "b"]
    assert read_flags([root], broken) is None
    assert read_flags([root], entries.module(4)) is None


def test_the_same_graph_is_what_stands_before_the_plus() -> None:
    name = entries.module(1)
    assert name.key.startswith(same_graph(name))
    assert same_graph(name).endswith("+")
