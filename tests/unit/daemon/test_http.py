"""The HTTP pages, over real connections on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import re
import select
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from neffd.config_values import Address
from neffd.errors import NeffdError
from neffd.metrics import Metrics
from neffd.serve.http import HttpServer
from tests.unit.waiting import until

METRICS_PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


class Source:
    """A daemon's state, to be set by the test."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.facts: dict[str, Any] = {"version": "1.2"}

    def status(self) -> dict[str, Any]:
        return self.facts

    def health(self) -> list[str]:
        return self.reasons


class Daemon:
    """A running HttpServer, and one way to ask it."""

    def __init__(self, source: Source, metrics: Metrics, address: Address, session: aiohttp.ClientSession) -> None:
        self.source, self.metrics, self.address, self._session = source, metrics, address, session

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
        """Status, content type and body."""
        async with self._session.request(method, f"http://{self.address}{path}", headers=headers) as answer:
            return answer.status, answer.headers.get("Content-Type", ""), await answer.text()


@pytest.fixture
async def daemon() -> AsyncIterator[Daemon]:
    source, metrics = Source(), Metrics()
    server = HttpServer(source, metrics)
    address = await server.start("127.0.0.1", 0)
    async with aiohttp.ClientSession() as session:
        yield Daemon(source, metrics, address, session)
    await server.stop()


async def test_health_says_why_not(daemon: Daemon) -> None:
    status, _, body = await daemon.ask("/healthz")
    assert (status, json.loads(body)) == (200, {"ok": True})
    daemon.source.reasons = ["journal-full", "no-cache-dir"]
    status, _, body = await daemon.ask("/healthz")
    assert (status, json.loads(body)) == (503, {"ok": False, "reasons": ["journal-full", "no-cache-dir"]})


async def test_status_is_json_with_a_schema(daemon: Daemon) -> None:
    status, content_type, body = await daemon.ask("/status")
    assert (status, content_type) == (200, "application/json; charset=utf-8")
    assert json.loads(body) == {"schema": 1, "version": "1.2"}


async def test_metrics_are_prometheus_text(daemon: Daemon) -> None:
    daemon.metrics.scans.labels(why="start").inc(3)
    status, content_type, body = await daemon.ask("/metrics")
    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert 'neffd_scans_total{why="start"} 3.0' in body.splitlines()


async def test_the_root_points_to_the_pages(daemon: Daemon) -> None:
    status, content_type, body = await daemon.ask("/")
    assert (status, content_type) == (200, "text/plain; charset=utf-8")
    for path in re.findall(r"(?m)^/\w+", body):
        assert (await daemon.ask(path))[0] == 200
    assert len(re.findall(r"(?m)^/\w+", body)) == 3
    assert (await daemon.ask("/nothing"))[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/status", "/nothing"])
async def test_only_reading_is_allowed(daemon: Daemon, method: str, path: str) -> None:
    assert (await daemon.ask(path, method))[0] == 405


async def test_head_is_reading(daemon: Daemon) -> None:
    assert (await daemon.ask("/healthz", "HEAD"))[::2] == (200, "")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.1.2.3:9817", "[::1]", "[::1]:9817"])
async def test_loopback_names_are_answered(daemon: Daemon, host: str) -> None:
    assert (await daemon.ask("/status", Host=host))[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:9817", "127.0.0.1.nip.io", "10.0.0.1", "::1x"]
)
async def test_other_names_are_refused(daemon: Daemon, host: str) -> None:
    status, _, body = await daemon.ask("/status", Host=host)
    assert status == 403
    assert "version" not in body


async def test_a_request_without_a_host_is_refused(daemon: Daemon) -> None:
    reader, writer = await asyncio.open_connection(daemon.address.host, daemon.address.port)
    writer.write(b"GET /status HTTP/1.0\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"403"
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00\n\n", b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000, b"GET / HTTP/1.1\r\n\r\n"]
)
async def test_what_is_no_http_leaves_nothing_in_the_log(
    daemon: Daemon, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    reader, writer = await asyncio.open_connection(daemon.address.host, daemon.address.port)
    writer.write(sent)
    assert (await reader.readline()).split()[1] == b"400"
    writer.close()
    assert caplog.records == []


async def test_requests_that_never_end_keep_nobody_out(daemon: Daemon) -> None:
    """The oldest connections are closed for new ones, so descriptors do not run out."""
    slow = []
    for _ in range(100):
        slow.append(await asyncio.open_connection(daemon.address.host, daemon.address.port))
        slow[-1][1].write(b"GET / HTTP/1.1\r\nHost: lo")
    assert (await daemon.ask("/healthz"))[0] == 200
    assert [await reader.read() for reader, _ in slow[: 100 - 64]] == [b""] * 36
    assert not slow[-1][0].at_eof()
    for _, writer in slow:
        writer.close()


def _has_come(client: socket.socket) -> bool:
    return bool(select.select([client], [], [], 0)[0])


async def test_answers_that_nobody_reads_keep_nobody_out() -> None:
    source, loop = Source(), asyncio.get_running_loop()
    source.facts = {"much": "x" * 2**24}  # more than fits into the sockets
    server = HttpServer(source, Metrics())
    address = await server.start("127.0.0.1", 0)
    assert server._runner is not None
    pages = server._runner.server
    assert pages is not None
    with contextlib.ExitStack() as clients:
        for number in range(70):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            await loop.sock_connect(client, (address.host, address.port))
            if number < 6:
                await loop.sock_sendall(client, b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await until(functools.partial(_has_come, client), "the answer comes")
        await until(lambda: len(pages.connections) == 64, "the oldest are gone")
        await server.stop()


async def test_a_used_port_is_an_error_with_a_hint(daemon: Daemon) -> None:
    with pytest.raises(NeffdError) as caught:
        await HttpServer(Source(), Metrics()).start(daemon.address.host, daemon.address.port)
    assert caught.value.reference == "http-in-use"
    assert str(daemon.address) in caught.value.message
    assert "http" in caught.value.hint


async def test_only_loopback_addresses_are_listened_on() -> None:
    with pytest.raises(NeffdError, match="http-not-loopback"):
        await HttpServer(Source(), Metrics()).start("0.0.0.0", 0)


async def test_stopping_frees_the_port_and_may_be_repeated() -> None:
    server = HttpServer(Source(), Metrics())
    await server.stop()
    first = await server.start("127.0.0.1", 0)
    await server.stop()
    await server.stop()
    assert await server.start(first.host, first.port) == first
    await server.stop()


async def test_stopping_does_not_wait_for_idle_connections() -> None:
    server = HttpServer(Source(), Metrics())
    address = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readline()
    await asyncio.wait_for(server.stop(), timeout=5)
    await asyncio.wait_for(reader.read(), timeout=5)
    assert reader.at_eof(), "it is closed from our side"
    writer.close()
    await writer.wait_closed()


def test_every_metric_is_documented() -> None:
    documented = {
        (name, kind, tuple(re.findall(r"`(\w+)`", labels)), text.strip())
        for name, kind, labels, text in re.findall(
            r"(?m)^\| `(\w+)` \| (\w+) \|([^|]*)\|([^|]*)\|$", METRICS_PAGE.read_text()
        )
    }
    # prometheus-client offers no public way to the labels of a metric.
    collectors = {value for value in vars(Metrics()).values() if hasattr(value, "_labelnames")}
    actual = {
        (
            family.name + ("_total" if family.type == "counter" else ""),
            family.type,
            collector._labelnames,
            family.documentation,
        )
        for collector in collectors
        for family in collector.describe()
    }
    assert documented == actual
    assert len(actual) == len({family.name for family in Metrics().registry.collect()}) > 0
