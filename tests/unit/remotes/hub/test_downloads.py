"""Files by the way that suits: a Hub with quotas and a chunk store in the test's loop, hf_xet in a real worker."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from neffd.remotes.base import EntryRefused, RemoteFile, RemoteUnavailable
from neffd.remotes.hub import xet_download
from neffd.remotes.hub.client import HubClient
from neffd.remotes.hub.downloads import Downloads
from neffd.remotes.hub.files import IncomingFile
from neffd.remotes.hub.quotas import API, FILES, Quotas
from neffd.remotes.hub.tokens import TokenSource
from neffd.remotes.hub.workers import HubWorker
from neffd.remotes.provenance import FileDigest
from neffd.tasks import Tasks
from tests.hub import HubServer
from tests.unit.clock import Clock
from tests.unit.remotes.hub.conftest import REPO, MakeClient, MakeServer

RESOLVE = "GET /{namespace}/{name}/resolve/{revision}/{path}"
TOKEN = "GET /api/{type}/{namespace}/{name}/xet-read-token/{revision}"
RECONSTRUCTION = "GET /v2/reconstructions/"
FILES_OF_REPO = {
    **{f"n/large-{number}.neff": random.Random(number).randbytes(700_000) for number in range(3)},
    "n/tiny.neff": random.Random(9).randbytes(3_000),
    "n/flags.json": b'["--model-type", "transformer"]',
}


@dataclass
class Wanting:
    """Whoever wants a file."""

    is_urgent: bool = True


RANK = Wanting()


class Host:
    """Downloads of a repo, and what the Hub says of its files."""

    def __init__(self, hub: HubServer, folder: Path) -> None:
        self.hub = hub
        self.clock = Clock()
        self.quotas = Quotas(self.clock)
        self.progress_bytes = 0
        self.signs: Counter[str] = Counter()
        self._folder = folder
        self._tasks = Tasks()
        tokens = TokenSource(environ={"HF_TOKEN": hub.token("alice", "read")})
        self.client = HubClient(hub.endpoint, REPO, tokens, read_s=2.0, quotas=self.quotas)
        self.worker = HubWorker(folder / "home", hub.endpoint, stall_s=2.0)
        self.ahead = HubWorker(folder / "home", hub.endpoint, stall_s=20.0)
        self.start_anew()

    def start_anew(self) -> None:
        """With the limits as they are now."""
        self._downloads = Downloads(
            self.client, self.quotas, self.worker, self.ahead, self._tasks, asyncio.to_thread, self.clock
        )

    async def get(self, *names: str, asker: Wanting = RANK) -> dict[str, FileDigest]:
        """All at once, each into a new file, which holds what it should."""
        stated = {item["path"]: _stated(item) for item in await self.client.paths_info(list(FILES_OF_REPO), "main")}
        found = await asyncio.gather(*(self._get(name, stated[name], asker) for name in names))
        return dict(zip(names, found, strict=True))

    async def close(self) -> None:
        await asyncio.gather(self.worker.close(), self.ahead.close())
        await self._tasks.stop(1.0)
        await self.client.close()

    async def _get(self, name: str, stated: RemoteFile, asker: Wanting) -> FileDigest:
        path = self._folder / stated.name
        path.unlink(missing_ok=True)
        incoming = IncomingFile(path, stated)

        async def sink() -> IncomingFile:
            return incoming

        try:
            moved = partial(self._moved, name)
            arrived, pieces = await self._downloads.get("main", name, sink, moved, asker)
            digest = await asyncio.to_thread(arrived.finish, *pieces)
        finally:
            incoming.close()
        assert path.read_bytes() == FILES_OF_REPO[name]
        return digest

    def _moved(self, name: str, count: int) -> None:
        self.progress_bytes += count
        self.signs[name] += count == 0


def _stated(item: dict[str, Any]) -> RemoteFile:
    lfs = item.get("lfs") or {}
    name = item["path"].rpartition("/")[2]
    return RemoteFile(name, item["size"], lfs.get("oid"), None if lfs else item["oid"], item.get("xetHash"))


@pytest.fixture
async def host(hub: HubServer, tmp_path: Path) -> AsyncIterator[Host]:
    hub.seed_files(REPO, FILES_OF_REPO, xet=True)
    host = Host(hub, tmp_path)
    yield host
    await host.close()


async def make_scarce(host: Host) -> None:
    """Less than a tenth of the resolver quota is left."""
    host.hub.set(resolver_quota=100, api_quota=1_000)
    host.hub.reset_limits()
    for _ in range(95):
        await host.client.head()
    host.hub.reset_counters()


def asked(hub: HubServer, route: str) -> int:
    return sum(count for name, count in hub.counters()["requests"].items() if name.startswith(route))


async def test_with_requests_enough_every_file_is_a_plain_get(host: Host) -> None:
    host.hub.set(resolver_quota=1_000)
    digests = await host.get(*FILES_OF_REPO)
    assert {name: digest.sha256 for name, digest in digests.items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in FILES_OF_REPO.items()
    }
    assert asked(host.hub, RESOLVE) == len(FILES_OF_REPO)
    assert asked(host.hub, RECONSTRUCTION) == 0
    assert host.worker.pid is None


async def test_what_the_hub_says_of_its_quotas_is_known(host: Host) -> None:
    await make_scarce(host)
    await host.client.paths_info(["n"], "main")
    files, api = host.quotas.get(FILES), host.quotas.get(API)
    assert files is not None
    assert api is not None
    assert (files.left, files.of, api.left, api.of) == (5, 100, 999, 1_000)


async def test_where_requests_are_scarce_large_files_take_none(host: Host) -> None:
    await make_scarce(host)
    await host.get(*FILES_OF_REPO)
    assert asked(host.hub, RESOLVE) == 1, "the one that is not in the chunk store"
    assert asked(host.hub, TOKEN) == 1, "one permission for all of them"
    assert host.progress_bytes == sum(map(len, FILES_OF_REPO.values()))
    await host.get(*FILES_OF_REPO)
    assert asked(host.hub, TOKEN) == 1, "and for the next"


async def test_in_the_next_window_they_are_plain_gets_again(host: Host) -> None:
    await make_scarce(host)
    await host.get("n/large-0.neff")
    host.clock.pass_s(300)
    host.hub.reset_limits()
    await host.get("n/large-1.neff")
    assert (asked(host.hub, RECONSTRUCTION), asked(host.hub, RESOLVE)) == (1, 1)


@pytest.mark.parametrize(
    ("match", "fault"),
    [
        ("/xet-read-token/", {"status": 503}),
        ("/xet-read-token/", {"status": 429}),
        ("/v2/reconstructions/", {"status": 403}),
        ("/v2/reconstructions/", {"kind": "reset"}),
        ("/xorb-data/", {"kind": "stall"}),
        ("/xorb-data/", {"kind": "truncate", "after_bytes": 1_000}),
    ],
    ids=["token 503", "token 429", "reconstruction 403", "reconstruction reset", "data stalls", "data cut short"],
)
async def test_what_the_chunk_store_does_not_bring_comes_by_plain_get(
    host: Host, match: str, fault: dict[str, Any]
) -> None:
    await make_scarce(host)
    host.hub.add_fault(f"GET .*{match}", times=None, **fault)
    await host.get("n/large-0.neff", "n/tiny.neff")
    assert asked(host.hub, RESOLVE) == 2
    host.hub.clear_faults()
    await host.get("n/large-1.neff")
    assert asked(host.hub, RESOLVE) == 3, "the store is left alone for a while"
    host.clock.pass_s(60)
    await host.get("n/large-1.neff")
    assert asked(host.hub, RESOLVE) == 3


async def xet_hash(host: Host, name: str) -> str:
    [item] = await host.client.paths_info([name], "main")
    return str(item["xetHash"])


async def test_a_content_that_the_chunk_store_lacks_spoils_no_other(host: Host) -> None:
    await make_scarce(host)
    lacking = await xet_hash(host, "n/large-1.neff")
    host.hub.add_fault(f"GET .*/reconstructions/{lacking}", status=404, times=None)
    large = [name for name in FILES_OF_REPO if "large" in name]
    await host.get(*large)
    assert asked(host.hub, RESOLVE) == 1, "the one that is missing there"
    await host.get(*large)
    assert asked(host.hub, RESOLVE) == 2, "and the store is asked for the others as before"
    await host.get("n/large-1.neff")
    await host.get("n/large-0.neff")
    assert asked(host.hub, RESOLVE) == 3, "nor is it avoided where the missing one was asked for alone"


async def test_a_hub_without_a_chunk_store(host: Host) -> None:
    await make_scarce(host)
    host.hub.set(cas="none")
    await host.get("n/large-0.neff")
    assert asked(host.hub, RESOLVE) == 1


async def test_wrong_bytes_from_the_chunk_store_are_never_taken(host: Host) -> None:
    await make_scarce(host)
    host.hub.add_fault("GET .*/xorb-data/", kind="corrupt", after_bytes=5_000, times=None)
    try:
        await host.get("n/large-0.neff")
    except EntryRefused:
        return
    assert asked(host.hub, RESOLVE) == 1, "hf_xet itself has noticed, and it came by a plain GET"


async def test_who_leaves_ends_the_worker(host: Host) -> None:
    await make_scarce(host)
    host.hub.add_fault("GET .*/xorb-data/", kind="stall", times=None)
    getting = asyncio.ensure_future(host.get("n/large-0.neff"))  # noqa: TID251
    await host.hub.wait_for_requests("GET /v2/reconstructions/{hash}")
    pid = host.worker.pid
    getting.cancel()
    await asyncio.wait([getting])
    assert getting.cancelled()
    host.hub.clear_faults()
    await host.get("n/large-0.neff")
    assert host.worker.pid != pid


async def test_a_rank_waits_for_nothing_that_is_prefetched(host: Host) -> None:
    await make_scarce(host)
    host.hub.add_fault("GET .*/xorb-data/", kind="stall", times=1)
    ahead = asyncio.ensure_future(host.get("n/large-0.neff", asker=Wanting(is_urgent=False)))  # noqa: TID251
    await host.hub.wait_for_requests("GET /xorb-data/{hash}")
    await host.get("n/large-1.neff")
    assert not ahead.done()
    assert asked(host.hub, RESOLVE) == 0, "it came by Xet as well"
    ahead.cancel()
    await asyncio.wait([ahead])


async def test_what_waits_for_its_block_or_its_batch_hears_that_something_moves(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file grows by whole blocks: on a slow line, for long by nothing."""
    monkeypatch.setattr(xet_download, "_FILES_AHEAD", 1)
    host.start_anew()
    await make_scarce(host)
    host.hub.add_fault("GET .*/xorb-data/", kind="slow", bytes_per_s=1_000_000, times=1)
    host.hub.add_fault("GET .*/xorb-data/", kind="stall", times=None)
    first, second = "n/large-0.neff", "n/large-1.neff"
    ahead = Wanting(is_urgent=False)
    waiting = asyncio.ensure_future(host.get(first, second, asker=ahead))  # noqa: TID251
    await host.hub.wait_for_requests("GET /xorb-data/{hash}", 2)
    assert host.signs[first] > 1
    assert host.signs[second] > 1
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_the_hubs_token_goes_to_no_store(host: Host) -> None:
    await make_scarce(host)
    access = await host.client.xet_access("main")
    assert access.url == host.hub.cdn
    assert host.hub.token("alice", "read") not in (access.token, access.url)


@pytest.mark.parametrize(
    "told",
    [
        b"[]",
        b"{}",
        b'{"casUrl": "ftp://x", "accessToken": "t", "exp": 9}',
        b'{"casUrl": "http://x", "accessToken": "t", "exp": 1e999}',
        b"no",
    ],
)
async def test_no_way_to_the_store(make_server: MakeServer, make_client: MakeClient, told: bytes) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=told)

    server = await make_server(answer)
    with pytest.raises(RemoteUnavailable, match="bad-answer"):
        await make_client(server.url).xet_access("main")
