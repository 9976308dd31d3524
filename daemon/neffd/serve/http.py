"""HTTP for people and monitors: read-only, on loopback, nothing that a web page in a browser could reach.

/healthz · /status · /metrics · / (a pointer to the three). A request whose Host is no loopback name is refused,
because a page that rebinds its own name to 127.0.0.1 would otherwise read the status of this host.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from neffd.config_values import Address, is_loopback
from neffd.errors import NeffdError
from neffd.metrics import Metrics

STATUS_SCHEMA = 1
_STOP_WITHIN_S = 1.0
# A person and an agent or two. Clients that never finish their request must not use up the daemon's descriptors.
_MAX_CONNECTIONS = 64
_POINTER = """neffd, the Neuron compile cache as a service on this host.

/healthz  200 when the daemon can do its work, else 503 with the reasons
/status   what the daemon knows, as JSON
/metrics  counters for Prometheus
"""

log = logging.getLogger(__name__)
# aiohttp's own: whoever sends what is no HTTP is told so, and does not fill the log with tracebacks.
_server_log = log.getChild("server")
_server_log.addFilter(lambda record: not isinstance((record.exc_info or [None] * 2)[1], HttpProcessingError))

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class StatusSource(Protocol):
    """What the pages show; both methods answer from memory."""

    def status(self) -> dict[str, Any]:
        """Facts that JSON can hold."""

    def health(self) -> list[str]:
        """The reasons why the daemon cannot do its work; empty when it can."""


class HttpServer:
    """The pages of one daemon.

    Args:
        source: answers for /status and /healthz.
        metrics: rendered by /metrics.
    """

    def __init__(self, source: StatusSource, metrics: Metrics) -> None:
        self._source = source
        self._metrics = metrics
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.AbstractServer | None = None

    async def start(self, host: str, port: int) -> Address:
        """Listen on a loopback address; returns the address in use, which matters where `port` is 0.

        Raises:
            NeffdError: `http-not-loopback`, `http-in-use`, or `http-failed` where the address cannot be had.
        """
        if not is_loopback(host):
            raise NeffdError("http-not-loopback", f"http: {host} is not a loopback address")
        runner = web.AppRunner(
            self._application(), access_log=None, shutdown_timeout=_STOP_WITHIN_S, logger=_server_log
        )
        await runner.setup()
        assert runner.server is not None
        connected = functools.partial(_connected, runner.server)
        try:
            listening = await asyncio.get_running_loop().create_server(connected, host, port)
        except OSError as error:
            await runner.cleanup()
            raise _listen_error(Address(host, port), error) from error
        self._runner, self._listening = runner, listening
        bound_host, bound_port = listening.sockets[0].getsockname()[:2]
        return Address(bound_host, bound_port)

    async def stop(self) -> None:
        """Stop listening and end open connections, within a second; harmless if not started."""
        runner, self._runner = self._runner, None
        if runner is not None and self._listening is not None:
            self._listening.close()
            await runner.cleanup()

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[_guard])
        app.router.add_get("/", self._pointer)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/status", self._status)
        app.router.add_get("/metrics", self._render_metrics)
        return app

    async def _pointer(self, request: web.Request) -> web.Response:
        return web.Response(text=_POINTER)

    async def _healthz(self, request: web.Request) -> web.Response:
        reasons = self._source.health()
        body = {"ok": False, "reasons": reasons} if reasons else {"ok": True}
        return web.json_response(body, status=503 if reasons else 200)

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response({"schema": STATUS_SCHEMA, **self._source.status()})

    async def _render_metrics(self, request: web.Request) -> web.Response:
        content_type = {"Content-Type": CONTENT_TYPE_PLAIN_0_0_4}
        return web.Response(body=generate_latest(self._metrics.registry), headers=content_type)


def _connected(server: web.Server) -> asyncio.Protocol:
    """For a new connection; the oldest ones make room for it."""
    for oldest in server.connections[: 1 - _MAX_CONNECTIONS]:
        transport = oldest.transport
        oldest.force_close()
        if transport is not None:  # closing waits until all is read, by whoever may never read
            transport.abort()
    return server()


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.method not in ("GET", "HEAD"):
        raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
    if not _is_loopback_host(request.headers.get("Host", "")):
        raise web.HTTPForbidden(text="403: only under a name of this machine, such as localhost\n")
    response = await handler(request)
    response.headers["Cache-Control"] = "no-store"
    return response


def _is_loopback_host(header: str) -> bool:
    """Whether a Host header, port or not, names this machine."""
    host, colon, port = header.rpartition(":")
    if not colon or not port.isdecimal():
        host = header
    return is_loopback(host[1:-1] if host.startswith("[") and host.endswith("]") else host)


def _listen_error(address: Address, error: OSError) -> NeffdError:
    if error.errno == errno.EADDRINUSE:
        return NeffdError(
            "http-in-use",
            f"http: {address} is used by another program",
            "choose another address with `http` in the configuration, or `http: null` to do without the pages",
        )
    return NeffdError("http-failed", f"http: cannot listen on {address}: {error.strerror or error}")
