"""The server: two ports over one state."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.hub import (
    account_routes,
    bucket_routes,
    cas_routes,
    cdn,
    commits,
    control,
    lfs,
    listing,
    preupload,
    repo_routes,
    resolve,
    xet_token_routes,
)
from tests.hub.middleware import CDN_PORT, HUB_PORT, Middleware
from tests.hub.operations import Operations
from tests.hub.settings import Settings
from tests.hub.state import HUB, Hub

_HOST = "127.0.0.1"
_MAX_BODY_BYTES = 1 << 30
_SHUTDOWN_S = 1.0


class HubServer(Operations):
    """A Hub inside this process, on the running event loop.

    Example:
        async with HubServer(root) as hub:
            token = hub.token("alice", "write")
            hub.add_fault(r"POST .*/commit/", kind="status", status=503)

    Args:
        root: where everything is stored; a server started again on it goes on where this one stopped.
        port: of the hub; 0 takes a free one, which a later `start` takes again.
        cdn_port: of contents and the CAS; likewise.
        settings: names and values of `Settings`.
    """

    def __init__(self, root: Path, *, port: int = 0, cdn_port: int = 0, **settings: Any) -> None:
        super().__init__(Hub(root, Settings()))
        self.set(**settings)
        self.port = port
        self.cdn_port = cdn_port
        self._runners: list[web.AppRunner] = []

    async def start(self) -> None:
        """Listen on both ports.

        Raises:
            OSError: a port is taken.
        """
        try:
            self.port = await self._listen(_hub_routes(), HUB_PORT, self.port)
            self.cdn_port = await self._listen(_cdn_routes(), CDN_PORT, self.cdn_port)
        except OSError:
            await self.stop()
            raise
        self.hub.endpoint = f"http://{_HOST}:{self.port}"
        self.hub.cdn = f"http://{_HOST}:{self.cdn_port}"

    async def stop(self) -> None:
        """Close both ports and all connections; stalled requests end."""
        self.clear_faults()
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()

    async def wait_for_requests(self, route: str, count: int = 1) -> None:
        """Return once the route has been asked `count` times since the counters were reset.

        Args:
            route: method and template as in the counters, e.g. `GET /api/whoami-v2`.
        """
        await self.hub.counters.wait(route, count)

    async def __aenter__(self) -> HubServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _listen(self, routes: Iterable[web.RouteDef], middlewares: tuple[Middleware, ...], port: int) -> int:
        app = web.Application(middlewares=middlewares, client_max_size=_MAX_BODY_BYTES)
        app[HUB] = self.hub
        app.add_routes(routes)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, _HOST, port).start()
        return int(runner.addresses[0][1])


def _hub_routes() -> list[web.RouteDef]:
    modules = (account_routes, repo_routes, listing, preupload, commits, bucket_routes, xet_token_routes, control)
    # The file routes are the widest, so they come last.
    return [*(route for module in modules for route in module.routes()), *lfs.hub_routes(), *resolve.routes()]


def _cdn_routes() -> list[web.RouteDef]:
    return [*cas_routes.routes(), *lfs.cdn_routes(), *cdn.routes()]
