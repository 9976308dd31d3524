"""One file by plain GETs, against a Hub that breaks transfers: what arrived is not sent twice."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from neffd.remotes.base import EntryRefused, RemoteFile, RemoteUnavailable
from neffd.remotes.hub.client import HubClient
from neffd.remotes.hub.files import IncomingFile
from neffd.remotes.hub.transfer import Transfer
from neffd.remotes.provenance import FileDigest
from tests.hub import HubServer
from tests.hub.gitobjects import blob_id
from tests.unit.remotes.hub.conftest import REPO, Answer, MakeClient, MakeServer

MB = 1 << 20
DATA = b"".join(hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(6 * MB // 32))
DIGEST = FileDigest(len(DATA), hashlib.sha256(DATA).hexdigest())
STATED = RemoteFile("model.neff", len(DATA), DIGEST.sha256)
# What a connection may hold when it breaks: twice the reading buffer.
BUFFERED_BYTES = MB + 300_000
RESOLVE = "GET /{namespace}/{name}/resolve/{revision}/{path}"
CONTENT = "GET /content/"


class Getting:
    """A file on its way into a folder."""

    def __init__(self, client: HubClient, folder: Path, stated: RemoteFile = STATED, path: str = "model.neff") -> None:
        self.path = folder / "arriving"
        self.progress_bytes = 0
        self._incoming = IncomingFile(self.path, stated)
        self._transfer = Transfer(client, "main", path, self._sink, self._moved, asyncio.to_thread)

    async def run(self) -> FileDigest:
        try:
            incoming, pieces = await self._transfer.run()
            return await asyncio.to_thread(incoming.finish, *pieces)
        finally:
            self._incoming.close()

    async def _sink(self) -> IncomingFile:
        return self._incoming

    def _moved(self, count: int) -> None:
        self.progress_bytes += count


@pytest.fixture
def getting(hub: HubServer, impatient: HubClient, tmp_path: Path) -> Getting:
    hub.seed_files(REPO, {"model.neff": DATA})
    hub.reset_counters()
    return Getting(impatient, tmp_path)


async def test_a_whole_one_takes_one_request(hub: HubServer, getting: Getting) -> None:
    assert await getting.run() == DIGEST
    assert getting.path.read_bytes() == DATA
    assert hub.counters()["requests"][RESOLVE] == 1


@pytest.mark.parametrize("kind", ["truncate", "stall-body"])
@pytest.mark.parametrize("after_bytes", [100_000, MB, 5 * MB + 12_345])
async def test_a_broken_one_goes_on_where_it_was(hub: HubServer, getting: Getting, kind: str, after_bytes: int) -> None:
    hub.add_fault(CONTENT, kind=kind, after_bytes=after_bytes)
    assert await getting.run() == DIGEST
    assert getting.path.read_bytes() == DATA
    counters = hub.counters()
    assert counters["requests"][RESOLVE] == 2, "the redirect may have expired: the Hub is asked again"
    assert getting.progress_bytes == len(DATA), "no byte twice"
    assert counters["bytes_out"] < len(DATA) + BUFFERED_BYTES


async def test_it_may_break_often_as_long_as_it_moves(hub: HubServer, getting: Getting) -> None:
    hub.add_fault(CONTENT, kind="truncate", after_bytes=800_000, times=7)
    assert await getting.run() == DIGEST
    assert getting.progress_bytes == len(DATA)
    assert hub.counters()["requests"][RESOLVE] == 8


async def test_tries_that_bring_next_to_nothing_end(hub: HubServer, getting: Getting) -> None:
    hub.add_fault(CONTENT, kind="truncate", after_bytes=400_000)
    hub.add_fault(CONTENT, kind="truncate", after_bytes=1_000, times=None)
    with pytest.raises(RemoteUnavailable, match="broken-transfer"):
        await getting.run()
    assert hub.counters()["requests"][RESOLVE] == 2


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"kind": "status", "status": 429, "headers": {"Retry-After": "7"}}, "rate-limited"),
        ({"kind": "status", "status": 401}, "bad-token"),
        ({"kind": "status", "status": 404, "code": "EntryNotFound"}, "revision-gone"),
        ({"kind": "reset"}, "unreachable"),
        ({"kind": "stall"}, "timeout"),
    ],
)
async def test_what_the_hub_says_to_the_second_try_counts(
    hub: HubServer, getting: Getting, fault: dict[str, Any], reason: str
) -> None:
    hub.add_fault(CONTENT, kind="truncate", after_bytes=2 * MB)
    hub.add_fault("GET .*/resolve/", skip=1, times=None, **fault)
    with pytest.raises(RemoteUnavailable) as raised:
        await getting.run()
    assert raised.value.reason == reason


async def test_wrong_bytes_of_any_try_are_refused(hub: HubServer, getting: Getting) -> None:
    hub.add_fault(CONTENT, kind="truncate", after_bytes=2 * MB)
    hub.add_fault(CONTENT, kind="corrupt")
    with pytest.raises(EntryRefused, match="digest-mismatch"):
        await getting.run()


async def test_a_small_one_is_left_to_who_wants_it_again(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    data = DATA[: MB // 2]
    hub.seed_files(REPO, {"small.neff": data})
    hub.add_fault(CONTENT, kind="truncate", after_bytes=200_000)
    stated = RemoteFile("small.neff", len(data), hashlib.sha256(data).hexdigest())
    with pytest.raises(RemoteUnavailable, match="broken-transfer"):
        await Getting(client, tmp_path, stated, "small.neff").run()


async def test_a_large_text_comes_from_the_hub_itself(hub: HubServer, client: HubClient, tmp_path: Path) -> None:
    data = b"a line of text\n" * 400_000
    hub.seed_files(REPO, {"graph.txt": data})
    hub.add_fault("GET .*/resolve/", kind="truncate", after_bytes=2 * MB)
    hub.reset_counters()
    getting = Getting(client, tmp_path, RemoteFile("graph.txt", len(data), git_sha1=blob_id(data)), "graph.txt")
    assert (await getting.run()).size_bytes == len(data)
    assert getting.progress_bytes == len(data)
    assert hub.counters()["requests"][RESOLVE] == 2


Rest = Callable[[int], web.Response]


def part(start_bytes: int, size_bytes: int) -> web.Response:
    headers = {"Content-Range": f"bytes {start_bytes}-{size_bytes - 1}/{size_bytes}"}
    return web.Response(status=206, body=DATA[start_bytes:size_bytes], headers=headers)


def refuse(_: int) -> web.Response:
    return web.Response(status=416)


def cut_short(rests: list[Rest], *, times: int = 1) -> Answer:
    """A server that sends a part of DATA and closes the connection, so many times, and is asked for the rest."""
    cuts = iter(range(times))

    async def answer(request: web.Request) -> web.StreamResponse:
        if "Range" in request.headers:
            return rests.pop(0)(int(request.headers["Range"].removeprefix("bytes=").removesuffix("-")))
        if next(cuts, None) is None:
            return web.Response(body=DATA)
        stream = web.StreamResponse()
        stream.content_length = len(DATA)
        await stream.prepare(request)
        await stream.write(DATA[: 2 * MB])
        assert request.transport is not None
        request.transport.close()
        return stream

    return answer


@pytest.mark.parametrize(
    "strange",
    [
        refuse,
        lambda start: part(start + 1, len(DATA)),
        lambda start: part(start, len(DATA) - 1),
        lambda start: web.Response(status=206, body=DATA[start:]),
        lambda start: web.Response(status=206, body=DATA[start:], headers={"Content-Range": "bytes */*"}),
    ],
    ids=["416", "from elsewhere", "of another size", "from nowhere", "nonsense"],
)
async def test_a_server_that_does_not_go_on_is_asked_from_the_start_once(
    make_server: MakeServer, make_client: MakeClient, tmp_path: Path, strange: Rest
) -> None:
    server = await make_server(cut_short([strange]))
    getting = Getting(make_client(server.url), tmp_path)
    assert await getting.run() == DIGEST
    assert getting.path.read_bytes() == DATA
    assert ["Range" in request.headers for request in server.requests] == [False, True, False]


async def test_a_server_without_ranges_sends_all_again(
    make_server: MakeServer, make_client: MakeClient, tmp_path: Path
) -> None:
    server = await make_server(cut_short([lambda _: web.Response(body=DATA)]))
    getting = Getting(make_client(server.url), tmp_path)
    assert await getting.run() == DIGEST
    assert getting.path.read_bytes() == DATA
    assert len(server.requests) == 2


async def test_a_server_that_never_goes_on_is_given_up(
    make_server: MakeServer, make_client: MakeClient, tmp_path: Path
) -> None:
    server = await make_server(cut_short([refuse, refuse], times=2))
    with pytest.raises(RemoteUnavailable, match="broken-transfer"):
        await Getting(make_client(server.url), tmp_path).run()
    assert len(server.requests) == 4
