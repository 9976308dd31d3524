"""The same operations over HTTP, under `/_control/` on the hub port, for other processes."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from aiohttp import web

from tests.hub.bodies import read_object
from tests.hub.errors import HubError, bad_request
from tests.hub.operations import Operations
from tests.hub.state import hub_of


def _operations(request: web.Request) -> Operations:
    return Operations(hub_of(request))


def _encode(files: dict[str, bytes]) -> dict[str, str]:
    return {path: base64.b64encode(content).decode() for path, content in files.items()}


def _decode(files: Any) -> dict[str, bytes]:
    if not isinstance(files, dict):
        raise bad_request("files must map paths to base64 contents")
    return {path: base64.b64decode(content) for path, content in files.items()}


async def state(request: web.Request) -> web.Response:
    hub = hub_of(request)
    return web.json_response(
        {
            "endpoint": hub.endpoint,
            "cdn": hub.cdn,
            "settings": hub.settings.as_dict(),
            "faults": _operations(request).faults(),
        }
    )


async def change_settings(request: web.Request) -> web.Response:
    _operations(request).set(**await read_object(request))
    return web.json_response(hub_of(request).settings.as_dict())


async def add_fault(request: web.Request) -> web.Response:
    options = await read_object(request)
    return web.json_response(_operations(request).add_fault(options.pop("match", ""), **options).as_dict())


async def list_faults(request: web.Request) -> web.Response:
    return web.json_response(_operations(request).faults())


async def clear_faults(request: web.Request) -> web.Response:
    _operations(request).clear_faults()
    return web.json_response({})


async def counters(request: web.Request) -> web.Response:
    return web.json_response(_operations(request).counters())


async def reset_counters(request: web.Request) -> web.Response:
    _operations(request).reset_counters()
    return web.json_response({})


async def reset_limits(request: web.Request) -> web.Response:
    _operations(request).reset_limits()
    return web.json_response({})


async def recent_requests(request: web.Request) -> web.Response:
    return web.json_response(list(hub_of(request).counters.recent))


async def wait_for_requests(request: web.Request) -> web.Response:
    """Answer once a route has been asked often enough, 408 if that takes too long."""
    body = await read_object(request)
    waiting = hub_of(request).counters.wait(str(body["route"]), int(body.get("count", 1)))
    try:
        await asyncio.wait_for(waiting, float(body.get("timeout_s", 10)))
    except asyncio.TimeoutError as error:
        raise HubError(408, f"{body['route']} was not asked often enough") from error
    return web.json_response({})


async def token(request: web.Request) -> web.Response:
    body = await read_object(request)
    if body.get("role", "write") not in ("read", "write"):
        raise bad_request("role must be read or write")
    return web.json_response({"token": _operations(request).token(body["user"], body.get("role", "write"))})


async def revoke(request: web.Request) -> web.Response:
    _operations(request).revoke((await read_object(request))["token"])
    return web.json_response({})


async def seed_files(request: web.Request) -> web.Response:
    body = await read_object(request)
    repo_id, files = body.pop("repo_id"), _decode(body.pop("files"))
    return web.json_response({"commit": _operations(request).seed_files(repo_id, files, **body)})


async def seed_bucket(request: web.Request) -> web.Response:
    body = await read_object(request)
    bucket_id, files = body.pop("bucket_id"), _decode(body.pop("files"))
    _operations(request).seed_bucket(bucket_id, files, **body)
    return web.json_response({})


async def head(request: web.Request) -> web.Response:
    return web.json_response({"commit": _operations(request).head(**request.query)})


async def commits(request: web.Request) -> web.Response:
    return web.json_response(_operations(request).commits(**request.query))


async def read_files(request: web.Request) -> web.Response:
    return web.json_response(_encode(_operations(request).read_files(**request.query)))


async def read_bucket(request: web.Request) -> web.Response:
    return web.json_response(_encode(_operations(request).read_bucket(**request.query)))


_ROUTES = [
    web.get("/state", state),
    web.patch("/settings", change_settings),
    web.post("/faults", add_fault),
    web.get("/faults", list_faults),
    web.delete("/faults", clear_faults),
    web.get("/counters", counters),
    web.delete("/counters", reset_counters),
    web.delete("/limits", reset_limits),
    web.get("/requests", recent_requests),
    web.post("/wait", wait_for_requests),
    web.post("/tokens", token),
    web.delete("/tokens", revoke),
    web.post("/repo-files", seed_files),
    web.get("/repo-files", read_files),
    web.get("/repo-head", head),
    web.get("/repo-commits", commits),
    web.post("/bucket-files", seed_bucket),
    web.get("/bucket-files", read_bucket),
]


def _checked(handler: Any) -> Any:
    """Answer wrong arguments with 400 and unknown repos with 404."""

    async def checked(request: web.Request) -> web.StreamResponse:
        try:
            response: web.StreamResponse = await handler(request)
        except KeyError as error:
            raise HubError(404, f"not found: {error}") from error
        except (TypeError, ValueError) as error:
            raise bad_request(str(error)) from error
        return response

    return checked


def routes() -> list[web.RouteDef]:
    return [
        web.RouteDef(route.method, f"/_control{route.path}", _checked(route.handler), route.kwargs) for route in _ROUTES
    ]
