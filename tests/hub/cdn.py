"""Plain contents on the second port: the targets of redirects and of reconstructions. No token is asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web

from tests.hub.errors import HubError
from tests.hub.ranges import serve
from tests.hub.state import Hub, hub_of

_BINARY = "application/octet-stream"


def _content_path(hub: Hub, store: str, key: str) -> Path:
    try:
        path = hub.blobs.lfs_path(key) if store == "lfs" else hub.xet.content_path(key)
    except ValueError as error:
        raise HubError(500, str(error)) from error
    if path is None:
        raise HubError(404, "No such content")
    return path


async def content(request: web.Request) -> web.Response:
    store, key = request.match_info["store"], request.match_info["key"]
    path = await asyncio.to_thread(_content_path, hub_of(request), store, key)
    return serve(request, path, etag=key, content_type=_BINARY)


async def xorb_data(request: web.Request) -> web.Response:
    """Serve byte ranges of a xorb."""
    hub, xorb = hub_of(request), request.match_info["hash"]
    if not hub.xet.has_xorb(xorb):
        raise HubError(404, "No such xorb")
    return serve(request, hub.xet.xorb_path(xorb), etag=xorb, content_type=_BINARY)


def routes() -> list[web.RouteDef]:
    return [
        web.get("/content/{store:lfs|xet}/{key:[0-9a-f]{64}}", content),
        web.get("/xorb-data/{hash:[0-9a-f]{64}}", xorb_data),
    ]
