"""What is accepted as a name is safe as one path component, whatever a remote sends."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neff import keys
from tests.harness import entries

_TRAPS = [
    "/",
    "\\",
    "..",
    "\0",
    "\n",
    "\r",
    "\u2028",
    " ",
    "\u0663",
    "\u00b2",
    "\uff11",
    "\u2165",
    "\udc80",
    "~",
    "$",
    "%2f",
]
_GOOD = (entries.NAMESPACE, entries.module(1).key)


@given(st.text(max_size=30), st.sampled_from(["neuronxcc-", "MODULE_"]), st.sampled_from(["", "+0acef03a"]))
@example("2.20\n", "neuronxcc-", "")
@example("\u0662.\u0662\u0660", "neuronxcc-", "")
def test_what_is_accepted_is_plain_ascii(middle: str, start: str, end: str) -> None:
    name = start + middle + end
    if keys.is_namespace(name) or keys.is_module_key(name):
        assert name.isascii()
        assert name.isprintable()
        assert not set(name) & set("/\\ ~$%")
        assert name not in (".", "..")
        assert len(name) < 255


@pytest.mark.parametrize("trap", [trap for trap in _TRAPS if trap != ".."])
@pytest.mark.parametrize("good", _GOOD)
def test_no_trap_anywhere_in_a_name(trap: str, good: str) -> None:
    for place in range(len(good) + 1):
        name = good[:place] + trap + good[place:]
        assert not keys.is_namespace(name)
        assert not keys.is_module_key(name)


@pytest.mark.parametrize(
    "text", ["", "/", "a/b", f"/{_GOOD[0]}/{_GOOD[1]}", f"{_GOOD[0]}/{_GOOD[1]}/", f"{_GOOD[0]}//{_GOOD[1]}"]
)
def test_module_names_have_two_parts(text: str) -> None:
    with pytest.raises(ValueError, match="not a module name"):
        keys.parse_module_name(text)


def test_round_trip() -> None:
    name = entries.module(7)
    assert keys.parse_module_name(str(name)) == name


@pytest.mark.parametrize(
    ("version", "mark"),
    [("2.14rc1", "model.neff"), ("2.15rc1", "model.done"), ("2.15b2.dev1", "model.done"), ("dev", "model.done")],
)
def test_a_version_in_development_has_its_releases_mark(version: str, mark: str) -> None:
    """`model.neff` is written in place: it is no mark unless the compiler is surely an old one."""
    assert keys.ready_mark(f"neuronxcc-{version}+0acef03a") == mark
