"""What a client sees on its connection under each kind of fault."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.hub import HubServer

REPO = "alice/m"
DATA = bytes(range(256)) * 40
TREE = "GET /api/{type}/{namespace}/{name}/tree/{revision}"
RESOLVE = "GET /{namespace}/{name}/resolve/{revision}/{path}"


@pytest.fixture
def url(hub: HubServer) -> str:
    """A regular file of 10,240 bytes."""
    text = DATA.hex().encode()[: len(DATA)]
    hub.seed_files(REPO, {"file.txt": text})
    return f"{hub.endpoint}/{REPO}/resolve/main/file.txt"


async def body_until_cut(response: aiohttp.ClientResponse) -> bytes:
    """Return what arrives before the connection ends early."""
    received = b""
    try:
        async for piece in response.content.iter_any():
            received += piece
    except aiohttp.ClientPayloadError:
        return received
    raise AssertionError("the body came whole")


async def test_status(hub: HubServer, http: aiohttp.ClientSession, url: str) -> None:
    hub.add_fault("GET .*file", status=503, message="busy", code="Busy", headers={"Retry-After": "7"})
    async with http.get(url) as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "7"
        assert (response.headers["X-Error-Message"], response.headers["X-Error-Code"]) == ("busy", "Busy")
        assert (await response.json())["error"] == "busy"
    async with http.get(url) as response:
        assert response.status == 200


async def test_reset(hub: HubServer, http: aiohttp.ClientSession, url: str) -> None:
    hub.add_fault("GET .*file", kind="reset")
    with pytest.raises(ConnectionResetError):
        await raw_get(hub.port, f"/{REPO}/resolve/main/file.txt")
    assert hub.counters()["errors"] == {RESOLVE: {"444": 1}}


async def raw_get(port: int, path: str) -> bytes:
    """Send one request and return all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def test_stall_before_headers_lasts_until_faults_are_cleared(
    hub: HubServer, http: aiohttp.ClientSession, url: str
) -> None:
    fault = hub.add_fault("GET .*file", kind="stall")
    async with _Running(http, url) as running:
        await hub.wait_for_requests(RESOLVE)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(running), 0.1)
        assert fault.times == 0
        hub.clear_faults()
        assert await running == 200


class _Running:
    """A GET in the background, whose result is its status."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def _get(self) -> int:
        async with self._http.get(self._url) as response:
            await response.read()
            return response.status

    async def __aenter__(self) -> asyncio.Future[int]:
        self._task = asyncio.get_running_loop().create_task(self._get())
        return self._task

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_stall_ends_after_its_time(hub: HubServer, http: aiohttp.ClientSession, url: str) -> None:
    hub.add_fault("GET .*file", kind="stall", stall_s=0.05)
    async with http.get(url) as response:
        assert response.status == 200


async def test_stalled_request_of_a_client_that_left_is_not_carried_out(
    hub: HubServer, http: aiohttp.ClientSession
) -> None:
    hub.add_fault("POST /api/repos/create", kind="stall")
    headers = {"Authorization": f"Bearer {hub.token('alice')}"}
    timeout = aiohttp.ClientTimeout(total=0.2)
    with pytest.raises(asyncio.TimeoutError):
        await http.post(f"{hub.endpoint}/api/repos/create", json={"name": "late"}, headers=headers, timeout=timeout)
    hub.clear_faults()
    async with http.get(f"{hub.endpoint}/api/models/alice/late", headers=headers) as response:
        assert response.status == 404


async def test_stall_in_the_body(hub: HubServer, http: aiohttp.ClientSession, url: str) -> None:
    hub.add_fault("GET .*file", kind="stall-body", after_bytes=1000)
    async with http.get(url) as response:
        assert response.content_length == len(DATA)
        assert len(await response.content.readexactly(1000)) == 1000
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(response.content.read(1), 0.1)
        hub.clear_faults()
        assert await body_until_cut(response) == b""


async def test_truncation(hub: HubServer, http: aiohttp.ClientSession, url: str) -> None:
    hub.add_fault("GET .*file", kind="truncate", after_bytes=1000)
    async with http.get(url) as response:
        assert (response.status, response.content_length) == (200, len(DATA))
        assert len(await body_until_cut(response)) == 1000
    assert hub.counters()["bytes_out"] == 1000


async def test_body_fault_waits_for_an_answer_with_a_body(
    hub: HubServer, http: aiohttp.ClientSession, url: str
) -> None:
    fault = hub.add_fault("file", kind="truncate", after_bytes=10)
    async with http.head(url) as response:
        assert response.status == 200
    assert fault.times == 1
    async with http.get(url) as response:
        assert len(await body_until_cut(response)) == 10


async def test_wrong_bytes_of_the_right_size(hub: HubServer, http: aiohttp.ClientSession, url: str) -> None:
    async with http.get(url) as response:
        right = await response.read()
    hub.add_fault("GET .*file", kind="corrupt", after_bytes=100)
    async with http.get(url) as response:
        wrong = await response.read()
        assert response.content_length == len(DATA)
    assert wrong[:100] == right[:100]
    assert all(a != b for a, b in zip(wrong[100:], right[100:], strict=True))


async def test_slow_body(hub: HubServer, http: aiohttp.ClientSession, url: str) -> None:
    hub.add_fault("GET .*file", kind="slow", bytes_per_s=40_000)
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    async with http.get(url) as response:
        assert len(await response.read()) == len(DATA)
    # 10,240 bytes; the last step's sleep comes after its bytes.
    assert loop.time() - started_s >= 0.2


@pytest.mark.parametrize(
    "options", [{"kind": "reset"}, {"status": 500}, {"status": 504}, {"kind": "stall", "stall_s": 0.05}]
)
async def test_landed_operation_with_a_lost_answer(
    hub: HubServer, http: aiohttp.ClientSession, options: dict[str, object]
) -> None:
    hub.add_fault("POST /api/repos/create", landed=True, **options)
    headers = {"Authorization": f"Bearer {hub.token('alice')}"}
    call = http.post(f"{hub.endpoint}/api/repos/create", json={"name": "m"}, headers=headers)
    if options.get("kind") == "reset":
        with pytest.raises(aiohttp.ClientConnectionError):
            await call
    else:
        async with call as response:
            assert response.status == options.get("status", 200)
    assert hub.head("alice/m")


async def test_faults_on_the_second_port_and_by_query(hub: HubServer, http: aiohttp.ClientSession) -> None:
    hub.seed_files(REPO, {"x.bin": DATA})
    hub.add_fault(r"GET /content/lfs/", kind="truncate", after_bytes=10)
    hub.add_fault(r"GET /api/models/.*\?blobs=true", status=500)
    async with http.get(f"{hub.endpoint}/{REPO}/resolve/main/x.bin") as response:
        assert len(await body_until_cut(response)) == 10
    for query, status in (("", 200), ("?blobs=true", 500)):
        async with http.get(f"{hub.endpoint}/api/models/{REPO}{query}") as response:
            assert response.status == status


async def test_latency_is_added_on_both_ports(hub: HubServer, http: aiohttp.ClientSession) -> None:
    hub.set(latency_s=0.1)
    loop = asyncio.get_running_loop()
    for base in (hub.endpoint, hub.cdn):
        started_s = loop.time()
        async with http.get(f"{base}/nothing"):
            assert loop.time() - started_s >= 0.1


async def test_stopping_ends_stalled_requests(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    hub = HubServer(tmp_path)
    await hub.start()
    hub.add_fault("GET /api/whoami-v2", kind="stall")
    async with _Running(http, f"{hub.endpoint}/api/whoami-v2") as running:
        await hub.wait_for_requests("GET /api/whoami-v2")
        await asyncio.wait_for(hub.stop(), 5)
        assert await running == 401


async def test_counters(hub: HubServer, http: aiohttp.ClientSession, url: str) -> None:
    tree = f"{hub.endpoint}/api/models/{REPO}/tree"
    hub.add_fault("/tree/main", status=503)
    for path in ("main", "main", "nowhere"):
        async with http.get(f"{tree}/{path}") as response:
            await response.read()
    async with http.get(f"{hub.endpoint}/no/such/page/at/all?x=1") as response:
        body = await response.json()
        assert body == {"error": "Sorry, we can't find the page you are looking for."}
        assert "X-Error-Code" not in response.headers
    async with http.post(f"{hub.cdn}/v1/telemetry", data=b"12345") as response:
        assert response.status == 204
    counters = hub.counters()
    assert counters["requests"] == {TREE: 3, "unrouted": 1, "POST /v1/telemetry": 1}
    assert counters["errors"] == {TREE: {"503": 1, "404": 1}, "unrouted": {"404": 1}}
    assert counters["unrouted"] == {"GET /no/such/page/at/all": 1}
    assert counters["bytes_in"] == 5
    hub.reset_counters()
    async with http.get(url) as response:
        await response.read()
    assert hub.counters()["bytes_out"] == len(DATA)
