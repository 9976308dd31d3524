"""Pages of a list: a bare JSON array, and a `Link` header to the next page while there is one."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from aiohttp import web

from tests.hub.errors import bad_request

ItemT = TypeVar("ItemT")


def encode_cursor(offset: int) -> str:
    return base64.urlsafe_b64encode(f"at:{offset}".encode()).decode()


def decode_cursor(cursor: str) -> int:
    """Return the offset inside a cursor.

    Raises:
        ValueError: the cursor did not come from this server.
    """
    try:
        text = base64.urlsafe_b64decode(cursor.encode()).decode()
    except (binascii.Error, UnicodeError) as error:
        raise ValueError(f"Invalid cursor: {cursor}") from error
    mark, _, digits = text.partition(":")
    if mark != "at" or not digits.isdecimal():
        raise ValueError(f"Invalid cursor: {cursor}")
    return int(digits)


def _window(request: web.Request, page_size: int, cap: int) -> tuple[int, int]:
    try:
        limit = int(request.query.get("limit", page_size))
        cursor = request.query.get("cursor")
        start = decode_cursor(cursor) if cursor else 0
    except ValueError as error:
        raise bad_request(str(error)) from error
    return start, max(1, min(limit, cap))


def page(
    request: web.Request,
    base_url: str,
    items: Sequence[ItemT],
    render: Callable[[ItemT], Any],
    *,
    page_size: int,
    cap: int | None = None,
) -> web.Response:
    """Answer one page.

    Args:
        base_url: scheme, host and port that clients reach this server by.
        items: the whole list, in a stable order.
        render: makes the JSON value of one item; called for the items of this page only.
        page_size: how many items without a `limit` parameter.
        cap: the most that `limit` may ask for; `page_size` if None.
    """
    start, limit = _window(request, page_size, cap or page_size)
    headers = {}
    if start + limit < len(items):
        following = request.rel_url.update_query({"limit": str(limit), "cursor": encode_cursor(start + limit)})
        headers["Link"] = f'<{base_url}{following}>; rel="next"'
    return web.json_response([render(item) for item in items[start : start + limit]], headers=headers)
