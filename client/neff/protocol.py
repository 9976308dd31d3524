"""The local protocol: newline-delimited JSON over a Unix socket. See docs/protocol.md for the whole of it.

One definition for both sides. The client speaks first (a greeting), the daemon answers with its own, then every request
carries an `id` that its answers repeat; the last answer of a request holds `"done": true` or `"error"`.
"""

from __future__ import annotations

import json
from typing import Any

PROTOCOL_VERSION = 1
MAX_LINE_BYTES = 262_144
MAX_KEYS_PER_REQUEST = 1_000
MAX_TEXT_CHARS = 200

# What the daemon says of one key.
READY = "ready"
ABSENT = "absent"
FETCHING = "fetching"
# How a wait for a lock ends, besides READY.
FREE = "free"

# Where a client looks for the socket when nobody tells it.
SYSTEM_SOCKET = "/run/neffd/neffd.sock"
# A Unix socket's path must fit into sockaddr_un.sun_path with its closing NUL.
MAX_SOCKET_PATH_BYTES = 107

Message = dict[str, Any]


class ProtocolError(ValueError):
    """A line that is no message of this protocol."""


def encode(message: Message) -> bytes:
    """One message as a line; raises ProtocolError if it is longer than MAX_LINE_BYTES."""
    line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise ProtocolError(f"message of {len(line)} bytes is over the limit of {MAX_LINE_BYTES}")
    return line


def decode(line: bytes) -> Message:
    """Read one line; raises ProtocolError unless it holds a JSON object within the limits."""
    if len(line) > MAX_LINE_BYTES:
        raise ProtocolError(f"line of {len(line)} bytes is over the limit of {MAX_LINE_BYTES}")
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("not JSON") from error
    if not isinstance(message, dict):
        raise ProtocolError("not a JSON object")
    return message


def safe_text(text: object, most_chars: int = MAX_TEXT_CHARS) -> str:
    """`text` fit for a log line or an error message: one line, printable, at most `most_chars` characters."""
    printable = "".join(c if c.isprintable() else "?" for c in str(text))
    return printable if len(printable) <= most_chars else printable[: most_chars - 1] + "…"
