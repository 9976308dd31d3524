"""Carrying out a fault on one request: what the client then sees on its connection."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

from aiohttp import web

from tests.hub.errors import HubError
from tests.hub.faults import Fault, Faults

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Stands in the counters for an answer that never reached the client.
BROKEN = 444
_SLOW_STEP_S = 0.05
# Long enough for the event loop to notice that a client has hung up.
_SETTLE_S = 0.02


class PartialResponse(web.StreamResponse):
    """An answer sent piece by piece, that knows how much of its body has gone out."""

    sent_bytes = 0

    async def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        await super().write(data)
        self.sent_bytes += len(data)


def reset(request: web.Request) -> None:
    """Break the connection so that the client sees a reset, not an orderly end."""
    transport = request.transport
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


async def apply(fault: Fault, faults: Faults, request: web.Request, handler: Handler) -> web.StreamResponse:
    """Run the request's handler under the fault and return what is left to send."""
    if not fault.landed and not fault.in_body:
        if early := await _instead(fault, faults, request):
            return early
        return await handler(request)
    try:
        response = await handler(request)
    except HubError:
        if fault.landed:
            faults.give_back(fault)
        raise
    if not fault.landed:
        return await _send_body(fault, faults, request, response)
    if response.status >= 400:
        faults.give_back(fault)
        return response
    return await _instead(fault, faults, request) or response


async def _instead(fault: Fault, faults: Faults, request: web.Request) -> web.StreamResponse | None:
    """Answer in place of the handler; None when the request goes on after a stall."""
    if fault.kind == "status":
        raise HubError(fault.status, fault.message, fault.code, headers=fault.headers)
    if fault.kind == "reset":
        reset(request)
        return web.Response(status=BROKEN)
    await faults.stall(fault)
    await asyncio.sleep(_SETTLE_S)
    # A client that gave up meanwhile must not see its request carried out later.
    return web.Response(status=BROKEN) if gone(request) else None


async def _send_body(
    fault: Fault, faults: Faults, request: web.Request, response: web.StreamResponse
) -> web.StreamResponse:
    body = response.body if isinstance(response, web.Response) else None
    if not isinstance(body, bytes) or not body or request.method == "HEAD":
        faults.give_back(fault)
        return response
    intact = min(fault.after_bytes, len(body))
    if fault.kind == "corrupt":
        # Every byte from there on is inverted: the size stays, no byte does.
        rest = bytes(255 - byte for byte in body[intact:])
        return web.Response(status=response.status, headers=response.headers, body=body[:intact] + rest)
    stream = PartialResponse(status=response.status, headers=response.headers)
    stream.content_length = len(body)
    await stream.prepare(request)
    try:
        await stream.write(body[:intact])
        if fault.kind == "slow":
            await _drip(stream, body[intact:], fault.bytes_per_s)
            return stream
        if fault.kind == "stall-body":
            await faults.stall(fault)
    except ConnectionError:
        return stream
    if request.transport is not None:
        # close() flushes what was written first, so that exactly these bytes arrive.
        request.transport.close()
    return stream


async def _drip(stream: PartialResponse, body: bytes, bytes_per_s: float) -> None:
    step_bytes = max(1, int(bytes_per_s * _SLOW_STEP_S))
    for start in range(0, len(body), step_bytes):
        piece = body[start : start + step_bytes]
        await stream.write(piece)
        await asyncio.sleep(len(piece) / bytes_per_s)
