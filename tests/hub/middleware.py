"""What happens around every request: counting, delay, quotas, faults, errors as answers."""

from __future__ import annotations

import asyncio
import secrets
from typing import Protocol

from aiohttp import web

from tests.hub import injection
from tests.hub.errors import HubError, unrouted
from tests.hub.injection import Handler
from tests.hub.state import hub_of

CONTROL_PREFIX = "/_control/"


class Middleware(Protocol):
    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse: ...


def for_clients(step: Middleware) -> Middleware:
    """Make a step that leaves the control API alone: it is never counted, delayed or faulted."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(CONTROL_PREFIX):
            return await handler(request)
        return await step(request, handler)

    return guarded


def route_of(request: web.Request) -> str | None:
    """Return `METHOD template` of the route that takes the request."""
    resource = request.match_info.route.resource
    return None if resource is None else f"{request.method} {resource.canonical}"


def _request_line(request: web.Request) -> str:
    return f"{request.method} {request.raw_path}"


@for_clients
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the request and its answer."""
    counters = hub_of(request).counters
    route = route_of(request)
    if route is None:
        counters.missed(f"{request.method} {request.path}")
    name = route or "unrouted"
    await counters.arrived(name, _request_line(request))
    response = await handler(request)
    counters.answered(name, response.status, request.content.total_bytes, _body_bytes(response))
    return response


def _body_bytes(response: web.StreamResponse) -> int:
    if isinstance(response, injection.PartialResponse):
        return response.sent_bytes
    body = response.body if isinstance(response, web.Response) else None
    return len(body) if isinstance(body, bytes) else 0


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn errors into answers and give every answer a request id."""
    try:
        response = await handler(request)
    except HubError as error:
        response = error.response()
    except web.HTTPNotFound:
        response = unrouted().response()
    except web.HTTPMethodNotAllowed:
        response = unrouted().response()
    if not response.prepared:
        response.headers["X-Request-Id"] = f"Root=1-{secrets.token_hex(8)}"
    return response


@for_clients
async def delay(request: web.Request, handler: Handler) -> web.StreamResponse:
    await asyncio.sleep(hub_of(request).settings.latency_s)
    return await handler(request)


@for_clients
async def limit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the request against its token's quota (hub port only)."""
    headers = hub_of(request).limits.take_request(request.headers.get("Authorization"), request.path)
    try:
        response = await handler(request)
    except HubError as error:
        error.headers = {**headers, **error.headers}
        raise
    if not response.prepared:
        response.headers.update(headers)
    return response


@for_clients
async def inject(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Apply the first fault that matches."""
    faults = hub_of(request).faults
    fault = faults.take(_request_line(request))
    if fault is None:
        return await handler(request)
    return await injection.apply(fault, faults, request, handler)


HUB_PORT: tuple[Middleware, ...] = (observe, answer_errors, delay, limit, inject)
CDN_PORT: tuple[Middleware, ...] = (observe, answer_errors, delay, inject)
