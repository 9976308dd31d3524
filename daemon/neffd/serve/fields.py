"""Fields of requests, checked: what comes from a client is bounded before anything is done with it."""

from __future__ import annotations

from collections.abc import Sequence

from neff import protocol
from neff.protocol import Message
from neffd.serve.session import BadRequest

# Longer than any valid name, so that whatever is echoed fits into a line.
_MAX_NAME_CHARS = 512


def strings(message: Message, field: str) -> Sequence[str]:
    """A list of names, empty where it is missing; raises BadRequest."""
    values = message.get(field, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise BadRequest("bad-request", f"{field} must be a list of strings")
    if len(values) > protocol.MAX_KEYS_PER_REQUEST:
        raise BadRequest("too-many", f"{field} holds more than {protocol.MAX_KEYS_PER_REQUEST} names")
    if any(len(value) > _MAX_NAME_CHARS for value in values):
        raise BadRequest("bad-request", f"{field} holds a name of more than {_MAX_NAME_CHARS} characters")
    return values
