"""How facts are printed."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neff.protocol import safe_text
from neffd.commands import output


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.none() | st.integers() | st.text(max_size=30)))
def test_a_line_is_one_line_that_a_script_can_split(facts: dict[str, object]) -> None:
    line = output.line(facts)
    assert line.isprintable()
    known = {name: safe_text(value) for name, value in facts.items() if value is not None}
    assert dict(word.split("=", 1) for word in shlex.split(line)) == known


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (2_000_000_000, "2.0 GB"), (10**16, "10000.0 TB")],
)
def test_sizes(size_bytes: int, text: str) -> None:
    assert output.size(size_bytes) == text
