"""libneuronxla's on-disk layout: `<root>/neuronxcc-<version>/MODULE_<hlo>+<flags>/` with several files an entry.

Source: the public behaviour of libneuronxla 2.13 to 2.26. The ready mark is `model.done`; up to 2.14 it was
`model.neff` itself.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from neff import keys

NAME = "xla"
NEFF = "model.neff"
DONE = "model.done"
LOCK_SUFFIX = ".lock"
# What stock creates to claim an entry (2.15 and later).
LOCK = "model.hlo_module.pb" + LOCK_SUFFIX
FLAGS = "compile_flags.json"
FAILURE_LOG = "model.log"
# Written before the compile, by whoever compiles: a fetched copy never replaces them.
INPUTS = ("model.hlo_module.pb", "model.hlo.pb", FLAGS, "compile_flags.txt")
OUTPUTS = ("wrapped_neff.hlo", NEFF, DONE)
# Nothing else in an entry's folder is ever shared or fetched.
SHARED = frozenset(INPUTS + OUTPUTS)


class State(str, Enum):
    """What a module's folder holds (contract, section 1.3)."""

    READY = "ready"
    COMPILING = "compiling"
    FAILED = "failed"
    PENDING = "pending"
    EMPTY = "empty"


def state(namespace: str, sizes_bytes: Mapping[str, int]) -> State:
    """Classify an entry by its files' names and sizes.

    A mark without a NEFF is not ready, and an entry that is compiled again after a failure is compiling.
    """
    if keys.ready_mark(namespace) in sizes_bytes and sizes_bytes.get(NEFF, 0) > 0:
        return State.READY
    if any(name.endswith(LOCK_SUFFIX) for name in sizes_bytes):
        return State.COMPILING
    if FAILURE_LOG in sizes_bytes:
        return State.FAILED
    if any(name in sizes_bytes for name in INPUTS):
        return State.PENDING
    return State.EMPTY


def publishing_order(namespace: str, names: Sequence[str]) -> list[str]:
    """The order in which an entry's files may appear: inputs, outputs, ready mark last."""
    mark = keys.ready_mark(namespace)
    rank = {name: position for position, name in enumerate(INPUTS + OUTPUTS)}
    return sorted(names, key=lambda name: (name == mark, rank.get(name, -1), name))


def flags_hash(namespace: str, flags: Sequence[str]) -> str:
    """The flags' half of a module key, as the compiler's wrapper computes it.

    From 2.15 on md5 of the JSON list, before that md5 of the words joined by spaces; the first eight hex digits of
    either.
    """
    joined = " ".join(flags) if keys.ready_mark(namespace) == NEFF else json.dumps(list(flags))
    return hashlib.md5(joined.encode(), usedforsecurity=False).hexdigest()[:8]


def flags_fit(name: keys.ModuleName, compile_flags: bytes) -> bool | None:
    """Whether `compile_flags.json` yields the key's flags hash; None where the content says nothing."""
    try:
        flags: Any = json.loads(compile_flags)
        if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
            return None
        return flags_hash(name.namespace, flags) == keys.flags_hash(name.key)
    except (ValueError, RecursionError):  # no JSON, nested without end, or no text in any encoding
        return None


@dataclass(frozen=True)
class NeffHeader:
    """The sizes at the start of a NEFF file: little-endian u64 package version, header size, data size."""

    package_version: int
    header_bytes: int
    data_bytes: int

    @property
    def file_bytes(self) -> int:
        return self.header_bytes + self.data_bytes


def is_failure_text(start: bytes) -> bool:
    """Whether the first bytes of a NEFF are the text that up to 2.14 marks a failed compile."""
    return bool(start) and b"\0" not in start and start.isascii()


NEFF_HEADER_BYTES = 1024
_HEADER = struct.Struct("<QQQ")


def neff_header(start: bytes) -> NeffHeader | None:
    """Read the sizes from the first bytes of a NEFF; None if they cannot be a NEFF's."""
    if len(start) < _HEADER.size:
        return None
    header = NeffHeader(*_HEADER.unpack_from(start))
    return header if header.header_bytes == NEFF_HEADER_BYTES else None
