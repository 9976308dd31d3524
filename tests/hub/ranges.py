"""Bodies with byte ranges and entity tags: regular files, CDN content, xorb data.

Format: RFC 9110, single byte ranges only; a header that is no such range is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from tests.hub.files import read_slice

_SINGLE = re.compile(r"bytes=(\d*)-(\d*)")


class Unsatisfiable(ValueError):
    """The range starts past the end."""


def parse_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """Return (start, end) with `end` exclusive, or None for the whole body.

    Args:
        header: value of the Range header: `bytes=a-b`, `bytes=a-` or `bytes=-n`.
        size_bytes: size of the whole body.

    Raises:
        Unsatisfiable: the range starts at or past the end; any range of an empty body does.
    """
    match = _SINGLE.fullmatch(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size_bytes - int(last)), size_bytes
    else:
        start, end = int(first), min(int(last) + 1 if last else size_bytes, size_bytes)
        if last and int(last) < int(first):
            return None
    if start >= size_bytes:
        raise Unsatisfiable(header)
    return start, end


def not_modified(request: web.Request, etag: str) -> bool:
    header = request.headers.get("If-None-Match", "")
    return header.strip() == "*" or etag in header


def serve(
    request: web.Request,
    content: bytes | Path,
    *,
    etag: str,
    content_type: str,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Answer a GET or HEAD with the content or the asked part of it.

    Args:
        content: the bytes, or the file that holds them.
        etag: without quotes.
        headers: sent with every status.
    """
    size_bytes = len(content) if isinstance(content, bytes) else content.stat().st_size
    common = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes", **(headers or {})}
    if not_modified(request, common["ETag"]):
        return web.Response(status=304, headers=common)
    try:
        span = parse_range(request.headers.get("Range"), size_bytes)
    except Unsatisfiable:
        return web.Response(status=416, headers={**common, "Content-Range": f"bytes */{size_bytes}"})
    start, end = span or (0, size_bytes)
    common["Content-Type"] = content_type
    if span:
        common["Content-Range"] = f"bytes {start}-{end - 1}/{size_bytes}"
    status = 206 if span else 200
    if request.method == "HEAD":
        return web.Response(status=status, headers={**common, "Content-Length": str(end - start)})
    body = content[start:end] if isinstance(content, bytes) else read_slice(content, start, end)
    return web.Response(status=status, headers=common, body=body)
