"""The soak's graphs by number, and what an entry of one has to look like: for trainers and judges alike.

A compiled graph can be told from every other and from a part of itself: the NEFF's header holds the digest of its data,
the data names the graph, and a wrapped module holds the NEFF of its own compile.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from neff.keys import ModuleName
from neffd.layouts import xla
from tests.harness.entries import NAMESPACE
from tests.neuron.graphs import load_graphs

WRAPPED = "--enable-internal-neff-wrapper"
_HLO, _WRAPPED_FILE = "model.hlo_module.pb", "wrapped_neff.hlo"
_TARGET = "--target=trn1"
# Of the compiler's arguments those that decide what comes out, as the stand-in hashes them.
_WORDS = ("--framework=XLA", _TARGET)
_DATA_HASH_AT, _HASH_BYTES = 172, 32
# A length-delimited field 1000 of the HLO's message, which nobody reads.
_UNUSED_FIELD = b"\xc2\x3e"
_LARGE_EVERY, _MIDDLE_EVERY = 40, 8


@dataclass(frozen=True)
class SoakGraph:
    """A real graph with a number in it.

    Attributes:
        flags: the caller's, without the target.
    """

    number: int
    hlo: bytes
    flags: tuple[str, ...]

    @property
    def graph_hash(self) -> str:
        return str(int.from_bytes(hashlib.sha256(self.hlo).digest()[:8], "big"))

    @property
    def name(self) -> ModuleName:
        return ModuleName(NAMESPACE, f"MODULE_{self.graph_hash}+{xla.flags_hash(NAMESPACE, self.all_flags)}")

    @property
    def all_flags(self) -> list[str]:
        return [_TARGET, *self.flags]

    @property
    def is_wrapped(self) -> bool:
        """Whether its entry also has a wrapped module."""
        return WRAPPED in self.flags


@functools.lru_cache(maxsize=64)
def graph(number: int) -> SoakGraph:
    """The graph of that number, the same in every process."""
    kind = "softmax_cross_entropy"
    if number % _LARGE_EVERY == 0:
        kind = "attention_forward"
    elif number % _MIDDLE_EVERY == 0:
        kind = "adam_update"
    text = str(number).encode()
    hlo = _real(kind) + _UNUSED_FIELD + bytes([len(text)]) + text
    return SoakGraph(number, hlo, (WRAPPED,) if number % 2 else ())


@functools.lru_cache
def _real(kind: str) -> bytes:
    return load_graphs([kind])[0].data


def names(numbers: range) -> dict[ModuleName, int]:
    """Which number an entry has."""
    return {graph(number).name: number for number in numbers}


def flaw_of_neff(of: SoakGraph, neff: bytes) -> str:
    """What keeps `neff` from being a whole NEFF of this graph; empty if nothing does."""
    header = xla.neff_header(neff[: xla.NEFF_HEADER_BYTES])
    if header is None or len(neff) != header.file_bytes:
        return f"a NEFF of {len(neff)} bytes whose header says {header.file_bytes if header else 'nothing'}"
    data = neff[xla.NEFF_HEADER_BYTES :]
    if hashlib.sha256(data).digest() != neff[_DATA_HASH_AT : _DATA_HASH_AT + _HASH_BYTES]:
        return "a NEFF whose data is not what its header was made for"
    words = "\0".join((*_WORDS, *of.flags)).encode()
    if hashlib.sha256(words + b"\0" + of.hlo).hexdigest().encode() not in data:
        return "the NEFF of another graph"
    return ""


def flaw(of: SoakGraph, files: Mapping[str, bytes]) -> str:
    """What is wrong with the files of a ready entry of this graph; empty if it is whole and one maker's."""
    if xla.NEFF not in files:
        return "no NEFF"
    if found := flaw_of_neff(of, files[xla.NEFF]):
        return found
    if files.get(_HLO) != of.hlo:
        return "another graph's HLO, or a part of it"
    if files.get(xla.FLAGS) != json.dumps(of.all_flags).encode():
        return "other flags, or a part of them"
    if of.is_wrapped and files[xla.NEFF] not in files.get(_WRAPPED_FILE, b""):
        return "a wrapped module that is missing or another maker's"
    return ""
