"""Request bodies, read and checked."""

from __future__ import annotations

import json
import re
from typing import Any

from aiohttp import web

from tests.hub.errors import bad_request

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


async def read_object(request: web.Request) -> dict[str, Any]:
    """Return the JSON object in the body; an absent body counts as an empty object.

    Raises:
        HubError: 400 for anything else.
    """
    body = await request.read()
    try:
        value = json.loads(body) if body.strip() else {}
    except ValueError as error:
        raise bad_request(f"Invalid JSON: {error}") from error
    if not isinstance(value, dict):
        raise bad_request("Invalid JSON: expected an object")
    return value


async def read_lines(request: web.Request) -> list[dict[str, Any]]:
    """Return the JSON objects of a newline-delimited body.

    Raises:
        HubError: 400 when a line is no JSON object.
    """
    return parse_lines(await request.read())


def parse_lines(body: bytes) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in body.split(b"\n") if line.strip()]
    except ValueError as error:
        raise bad_request(f"Invalid JSON: {error}") from error
    if not all(isinstance(line, dict) for line in lines):
        raise bad_request("Invalid JSON: expected one object a line")
    return lines


def require_text(value: dict[str, Any], name: str) -> str:
    """Return a member that must be a non-empty string."""
    text = value.get(name)
    if not isinstance(text, str) or not text:
        raise bad_request(f"{name} is required")
    return text


def require_name(name: str) -> str:
    """Return the name of a repo, bucket or namespace if it is one; it also names a folder on disk."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise bad_request(f"Invalid name: {name!r}")
    return name


def is_true(request: web.Request, name: str, default: bool = False) -> bool:
    """Return a boolean query parameter."""
    value = request.query.get(name)
    return default if value is None else value.lower() in ("true", "1")
