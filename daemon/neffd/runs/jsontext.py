"""Reading JSON that anybody may have written: bounded in size and depth."""

from __future__ import annotations

import json
from typing import Any

MAX_DOCUMENT_BYTES = 1 << 20
_MAX_DEPTH = 40


class BadDocument(ValueError):
    """What was read is not what the format says; the text says how."""


def read_object(data: bytes, max_bytes: int = MAX_DOCUMENT_BYTES) -> dict[str, Any]:
    """The JSON object in `data`; raises BadDocument where there is none, or it is larger or deeper than any can be."""
    if len(data) > max_bytes:
        raise BadDocument(f"longer than {max_bytes} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise BadDocument("not JSON") from None
    if not isinstance(document, dict):
        raise BadDocument("not an object")
    _check_depth(document, _MAX_DEPTH)
    return document


def text_or_none(value: object) -> str | None:
    """`value` if it is a string."""
    return value if isinstance(value, str) else None


def _check_depth(value: object, levels: int) -> None:
    if levels == 0:
        raise BadDocument("nested too deeply")
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return
    for item in value:
        _check_depth(item, levels - 1)
