"""The record that `power_recorder.c` makes of what processes did to files, and how to have one made."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.faults import preload

_HEAD = struct.Struct("<c3xIIIQQ")


class Op(str, Enum):
    """What was done."""

    CREATE = "c"
    TRUNCATE = "t"
    WRITE = "w"
    MKDIR = "d"
    RENAME = "r"
    LINK = "l"
    REMOVE = "u"
    SYNC = "s"
    SYNC_ALL = "S"
    MARK = "!"


@dataclass(frozen=True)
class Event:
    """One call that succeeded.

    `path` is where the file was then, `to` its new name; `at` is an offset, or a size where it was truncated.
    """

    op: Op
    path: str
    to: str = ""
    inode: int = 0
    at: int = 0
    data: bytes = b""


def environ(trace: Path, below: Path) -> dict[str, str]:
    """What makes a process, and all that it starts, record into `trace` what it does below `below`."""
    library = preload.build("power_recorder", trace.parent)
    return {"LD_PRELOAD": str(library), "POWER_TRACE": str(trace), "POWER_BELOW": str(below)}


def mark(text: str) -> None:
    """Note `text` among the events, from a process that is recorded; nothing in others."""
    library = ctypes.CDLL(None)
    if hasattr(library, "power_mark"):
        library.power_mark(text.encode())


def read(trace: Path) -> list[Event]:
    """All events, in the order in which they happened."""
    return list(_parse(trace.read_bytes()))


def _parse(content: bytes) -> Iterator[Event]:
    position = 0
    while position < len(content):
        op, path_bytes, to_bytes, data_bytes, inode, at = _HEAD.unpack_from(content, position)
        position += _HEAD.size
        parts = []
        for size in (path_bytes, to_bytes, data_bytes):
            parts.append(content[position : position + size])
            position += size
        yield Event(Op(op.decode()), os.fsdecode(parts[0]), os.fsdecode(parts[1]), inode, at, parts[2])
