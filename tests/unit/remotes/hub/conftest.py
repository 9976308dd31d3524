"""A Hub in the test's event loop, servers that answer as a test wants, and clients of both."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from neffd.remotes.hub.client import HubClient
from neffd.remotes.hub.tokens import TokenSource
from tests.hub import HubServer

REPO = "alice/cache"
TOKEN = "hf_a_secret"

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
MakeServer = Callable[..., Awaitable["Server"]]
MakeClient = Callable[..., HubClient]


@dataclass
class Server:
    """An origin of its own that gives one answer to everything, and keeps what it was sent."""

    url: str
    requests: list[web.Request] = field(default_factory=list)

    @property
    def tokens(self) -> list[str | None]:
        return [request.headers.get("Authorization") for request in self.requests]


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[HubServer]:
    """A Hub with the private repo `alice/cache`."""
    async with HubServer(tmp_path / "hub") as server:
        server.seed_files(REPO, {}, private=True)
        yield server


@pytest.fixture
async def make_server() -> AsyncIterator[MakeServer]:
    """Starts servers that give one answer to every request."""
    async with contextlib.AsyncExitStack() as running:

        async def make(answer: Answer, tls: ssl.SSLContext | None = None) -> Server:
            seen = Server("")

            async def handle(request: web.Request) -> web.StreamResponse:
                seen.requests.append(request)
                return await answer(request)

            app = web.Application()
            app.router.add_route("*", "/{path:.*}", handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            running.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "localhost", 0, ssl_context=tls).start()
            seen.url = f"{'http' if tls is None else 'https'}://localhost:{runner.addresses[0][1]}"
            return seen

        yield make


@pytest.fixture
async def make_client() -> AsyncIterator[MakeClient]:
    """Makes clients of `alice/cache` at an endpoint; what they wait for only ends a hang."""
    async with contextlib.AsyncExitStack() as made:

        def make(endpoint: str, token: str | None = TOKEN, **options: Any) -> HubClient:
            tokens = TokenSource(environ={"HF_TOKEN": token} if token else {}, anonymous=token is None)
            client = HubClient(endpoint, REPO, tokens, **{"connect_s": 10.0, "read_s": 10.0, **options})
            made.push_async_callback(client.close)
            return client

        yield make


@pytest.fixture
def client(hub: HubServer, make_client: MakeClient) -> HubClient:
    """Of that Hub, with alice's token."""
    return make_client(hub.endpoint, hub.token("alice"))


@pytest.fixture
def impatient(hub: HubServer, make_client: MakeClient) -> HubClient:
    """The same, for a Hub from which nothing comes."""
    return make_client(hub.endpoint, hub.token("alice"), read_s=1.0)
