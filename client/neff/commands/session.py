"""What the commands share: a connection with a person's patience, and tolerant reading of what comes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from neff import greeting
from neff.connection import Connection, connect, socket_candidates
from neff.errors import LostError
from neff.patience import SilencePatience
from neff.protocol import Message, safe_text
from neff.waits import Waits

# A person would rather wait a moment than be told that a busy daemon is away; a trainer would not.
CONNECT_S = 2.0
ANSWER_S = 10.0
# A path has at most 4,096 bytes; a command with one has some words before it.
_WHOLE_CHARS = 8_192

WAITS = Waits()


@contextmanager
def session(args: argparse.Namespace, root: str | None = None) -> Iterator[Connection]:
    """A connection to the daemon that `--socket` or the environment names; raises DaemonError.

    Args:
        root: the cache directory that is asked about, where it is one.
    """
    connection = connect(socket_candidates(args.socket), greeting.of_command(root), WAITS, CONNECT_S)
    try:
        yield connection
    finally:
        connection.close()


def status_of(connection: Connection) -> Message:
    """The daemon's status document; raises DaemonError."""
    for answer in connection.answers("status", {}, SilencePatience(WAITS.now_s(), ANSWER_S)):
        status = answer.get("status")
        if isinstance(status, dict):
            return status
    raise LostError("garbage", f"the daemon at {connection.path} sent no status")


def texts(message: Message, *names: str) -> list[str]:
    """These fields as printable text, `?` where one is missing."""
    return [safe_text(message[name]) if message.get(name) is not None else "?" for name in names]


def whole(message: Message, name: str) -> str:
    """One field as printable text, `?` where it is missing; a command or a path, which is of no use where it is cut."""
    return safe_text(message[name], _WHOLE_CHARS) if message.get(name) is not None else "?"


def fields(value: object) -> Message:
    """`value` if it is an object; an empty one where it is something else."""
    return value if isinstance(value, dict) else {}


def objects(value: object) -> list[Message]:
    """The objects of a list; nothing where it is something else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def strings(value: object) -> list[str]:
    """The texts of a list, printable; nothing where it is something else."""
    return [safe_text(item) for item in value if isinstance(item, str)] if isinstance(value, list) else []


def number(value: object) -> float | None:
    """`value` if it is a finite number of at least 0."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < 1e18 else None  # type: ignore[operator, arg-type]
