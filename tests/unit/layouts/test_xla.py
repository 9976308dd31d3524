"""libneuronxla's layout: states, order of files, flags hash, NEFF header."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neff.keys import ModuleName
from neffd.layouts import xla
from tests.harness import entries
from tests.neuron.known_hashes import HASHES, LEGACY_HASHES

NEW, OLD = entries.NAMESPACE, entries.OLD_NAMESPACE
_FILES = ("model.done", "model.neff", "model.log", "model.hlo_module.pb", "model.hlo_module.pb.lock")


@pytest.mark.parametrize(("expected", "flags"), HASHES.items())
def test_known_hashes(expected: str, flags: list[str]) -> None:
    name = ModuleName(NEW, f"MODULE_1+{expected}")
    assert xla.flags_hash(NEW, flags) == expected
    assert xla.flags_fit(name, json.dumps(flags).encode()) is True
    assert xla.flags_fit(name, json.dumps([*flags, "-O3"]).encode()) is False


@pytest.mark.parametrize(("expected", "flags"), LEGACY_HASHES.items())
def test_known_hashes_up_to_2_14(expected: str, flags: list[str]) -> None:
    assert xla.flags_hash(OLD, flags) == expected


@pytest.mark.parametrize("namespace", [NEW, OLD])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"null", b'{"a": 1}', b"[1]", b"[" * 200_000, b"9" * 5_000, b'["\\ud800"]'],
    ids=["empty", "torn", "no-text", "null", "object", "numbers", "nested", "long-number", "surrogate"],
)
def test_flags_that_say_nothing_never_raise(namespace: str, content: bytes) -> None:
    assert xla.flags_fit(entries.module(1, namespace), content) in (None, False)


@given(st.binary(max_size=200))
def test_any_bytes_as_flags(content: bytes) -> None:
    assert xla.flags_fit(entries.module(1), content) in (None, False)


@pytest.mark.parametrize("namespace", [NEW, OLD])
@pytest.mark.parametrize("present", list(itertools.product([False, True], repeat=len(_FILES))))
@pytest.mark.parametrize("neff_bytes", [0, 1])
def test_state_of_every_combination(namespace: str, present: tuple[bool, ...], neff_bytes: int) -> None:
    files = {file for file, is_there in zip(_FILES, present, strict=True) if is_there}
    sizes = {file: neff_bytes if file == "model.neff" else 0 for file in files}
    mark = "model.done" if namespace == NEW else "model.neff"
    if {mark, "model.neff"} <= files and neff_bytes:
        expected = xla.State.READY
    elif "model.hlo_module.pb.lock" in files:
        expected = xla.State.COMPILING
    elif "model.log" in files:
        expected = xla.State.FAILED
    elif "model.hlo_module.pb" in files:
        expected = xla.State.PENDING
    else:
        expected = xla.State.EMPTY
    assert xla.state(namespace, sizes) is expected


@given(st.permutations(sorted(xla.SHARED)))
def test_inputs_come_first_and_the_mark_last(names: list[str]) -> None:
    order = xla.publishing_order(NEW, names)
    assert sorted(order) == sorted(names)
    assert set(order[: len(xla.INPUTS)]) == set(xla.INPUTS)
    assert order[-2:] == ["model.neff", "model.done"]


def test_up_to_2_14_the_neff_comes_last() -> None:
    assert xla.publishing_order(OLD, ["model.neff", "wrapped_neff.hlo", "model.hlo.pb"])[-1] == "model.neff"


def test_neff_header() -> None:
    header = xla.neff_header(entries.neff_bytes(1, 5_000))
    assert header is not None
    assert header.file_bytes == 5_000


@given(st.binary(max_size=64))
def test_any_bytes_as_header(start: bytes) -> None:
    header = xla.neff_header(start)
    assert header is None or (len(start) >= 24 and header.header_bytes == xla.NEFF_HEADER_BYTES)


def test_failure_text() -> None:
    assert xla.is_failure_text(b"Failed compilation with ...")
    assert not xla.is_failure_text(b"")
    assert not xla.is_failure_text(entries.neff_bytes(1))
