from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neff.protocol import MAX_LINE_BYTES, MAX_TEXT_CHARS, ProtocolError, decode, encode, safe_text

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), _JSON, max_size=5))
def test_a_message_is_one_line_and_comes_back(message: dict[str, object]) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert decode(line) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_protocol_error(line: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert isinstance(decode(line), dict)


def test_the_size_limit_holds_in_both_directions() -> None:
    fits = {"k": "x" * (MAX_LINE_BYTES - len(b'{"k":""}\n'))}
    assert decode(encode(fits)) == fits
    with pytest.raises(ProtocolError):
        encode({"k": fits["k"] + "x"})
    with pytest.raises(ProtocolError):
        decode(b" " * MAX_LINE_BYTES + b"{}")


@given(st.text())
def test_safe_text_is_short_printable_and_one_line(text: str) -> None:
    safe = safe_text(text)
    assert len(safe) <= MAX_TEXT_CHARS
    assert safe.isprintable()
