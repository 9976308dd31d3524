"""`neffd.json` from untrusted hands: read exactly or not at all, never an exception."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neffd.remotes import provenance
from neffd.remotes.provenance import FileDigest, Provenance

_SHA = "0123456789abcdef" * 4
_digests = st.builds(
    FileDigest,
    st.integers(min_value=0),
    st.text("0123456789abcdef", min_size=64, max_size=64),
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(max_size=20), _digests, max_size=5),
    st.none() | st.floats(min_value=0, max_value=1e6),
    st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3),
)
def test_round_trip(files: dict[str, FileDigest], compile_s: float | None, made: dict[str, str]) -> None:
    said = Provenance(files, compile_s, made)
    assert provenance.parse(said.encode()) == said


def test_equal_provenance_is_equal_bytes() -> None:
    one, other = FileDigest(1, _SHA), FileDigest(2, _SHA)
    assert Provenance({"a": one, "b": other}).encode() == Provenance({"b": other, "a": one}).encode()


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_no_provenance(content: bytes) -> None:
    assert provenance.parse(content) is None


@given(_json, _json, _json, _json)
def test_any_json_is_read_or_no_provenance(files: Any, compile_s: Any, made: Any, digest: Any) -> None:
    for body in (files, {"format": 1, "files": files}, {"format": 1, "files": {"f": digest}, "made": made}):
        said = provenance.parse(json.dumps(body).encode())
        assert said is None or isinstance(said, Provenance)
    with_time = {"format": 1, "files": {}, "compile_s": compile_s}
    timed = provenance.parse(json.dumps(with_time).encode())
    assert timed is not None
    assert timed.compile_s is None or 0 <= timed.compile_s < 1e7


@pytest.mark.parametrize("number", ["1e400", "-1e400", "NaN", "Infinity", "-1", "1" + "0" * 400, "1e9", "null", '"12"'])
def test_an_impossible_compile_time_is_none(number: str) -> None:
    said = provenance.parse(f'{{"format": 1, "files": {{}}, "compile_s": {number}}}'.encode())
    assert said is not None
    assert said.compile_s is None


@pytest.mark.parametrize("size", ["-1", "1.0", "true", "null", '"1"', "1e3", "NaN", "1" + "0" * 5_000])
def test_an_impossible_size_is_no_provenance(size: str) -> None:
    body = f'{{"format": 1, "files": {{"f": {{"size_bytes": {size}, "sha256": "{_SHA}"}}}}}}'
    assert provenance.parse(body.encode()) is None


@pytest.mark.parametrize(
    "sha256", ["", _SHA.upper(), _SHA[:-1], _SHA + "0", _SHA + "\n", "\u0660" * 64, 7, None, [_SHA]]
)
def test_an_impossible_digest_is_no_provenance(sha256: object) -> None:
    body = {"format": 1, "files": {"f": {"size_bytes": 1, "sha256": sha256}}}
    assert provenance.parse(json.dumps(body).encode()) is None


@pytest.mark.parametrize(
    "content", [b"[" * 60_000, b'{"format":' * 6_000, b'{"format": 2, "files": {}}', b"null", b"\xff"]
)
def test_hostile_or_foreign_files(content: bytes) -> None:
    assert provenance.parse(content) is None


def test_a_long_file_is_not_read() -> None:
    content = Provenance({}).encode()
    assert provenance.parse(content.ljust(provenance.MAX_BYTES)) is not None
    assert provenance.parse(content.ljust(provenance.MAX_BYTES + 1)) is None
