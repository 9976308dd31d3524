"""Listing a repo's documents: the head and the listing are asked for together, and what is told is the head's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from neffd.remotes.base import RemoteUnavailable
from neffd.remotes.hub.client import HubClient
from neffd.remotes.hub.documents import Documents
from neffd.remotes.hub.tokens import TokenSource
from tests.hub import HubServer
from tests.unit.remotes.hub.conftest import REPO

FOLDER = "neuronxcc-2.20.9961.0+0acef03a/0_RUNS"
HEAD = "HEAD /{namespace}/{name}/resolve/{revision}/{path}"
TREE = "GET /api/{type}/{namespace}/{name}/tree/{revision}/{path}"


class Reading:
    """The documents of the repo, and the head that was seen last."""

    def __init__(self, hub: HubServer) -> None:
        self.client = HubClient(hub.endpoint, REPO, TokenSource(environ={"HF_TOKEN": hub.token("alice")}))
        self.last_head = ""
        self.documents = Documents(self.client, self.head, lambda: self.last_head)

    async def head(self) -> str:
        self.last_head = await self.client.head()
        return self.last_head

    async def names(self) -> list[str]:
        return [document.path.rpartition("/")[2] for document in await self.documents.listed(FOLDER)]


@pytest.fixture
async def reading(hub: HubServer) -> AsyncIterator[Reading]:
    hub.seed_files(REPO, {f"{FOLDER}/org/a.json": b"{}"}, private=True)
    reading = Reading(hub)
    yield reading
    await reading.client.close()


async def test_the_listing_does_not_wait_for_the_head(hub: HubServer, reading: Reading) -> None:
    await reading.head()
    hub.add_fault("HEAD ", kind="stall", times=None)
    hub.reset_counters()
    listed = asyncio.ensure_future(reading.names())  # noqa: TID251
    await hub.wait_for_requests(TREE)
    assert not listed.done(), "whether it is still true is not known yet"
    hub.clear_faults()
    assert await listed == ["a.json"]
    assert hub.counters()["requests"] == {HEAD: 1, TREE: 1}


async def test_what_came_at_an_old_head_is_not_told(hub: HubServer, reading: Reading) -> None:
    assert await reading.names() == ["a.json"]
    for name in ("b.json", "c.json"):
        hub.seed_files(REPO, {f"{FOLDER}/org/{name}": b"{}"}, private=True)
        assert (await reading.names())[-1] == name
    hub.reset_counters()
    assert await reading.names() == ["a.json", "b.json", "c.json"]
    assert hub.counters()["requests"] == {HEAD: 1}, "nothing moved: it is known"


async def test_without_the_head_nothing_is_told(hub: HubServer, reading: Reading) -> None:
    await reading.head()
    hub.add_fault("HEAD ", status=503, times=None)
    with pytest.raises(RemoteUnavailable):
        await reading.names()
    hub.clear_faults()
    hub.add_fault(r"GET .*/tree/", status=503, times=1)
    assert await reading.names() == ["a.json"], "a listing that failed is asked for once more"
