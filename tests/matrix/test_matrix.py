"""Every fault at every place of the Hub remote: what is seen, that it heals, that nothing is torn or doubled."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from neffd.remotes.base import EntryFailed, EntryRefused, PublishResult, RemoteEntry, RemoteUnavailable
from neffd.remotes.hub.repo import HubRepoRemote
from neffd.remotes.hub.tokens import TokenSource
from tests.harness import entries
from tests.harness.listing import all_keys
from tests.hub import HubServer
from tests.matrix.outcomes import OPTIONS, OUTCOMES, READS
from tests.unit.clock import Clock
from tests.unit.remotes.fetching import fetched
from tests.unit.remotes.publishing import outgoing

REPO = "alice/cache"
THEIRS, MINE = entries.module(1), entries.module(2)
CONTENT = {name: entries.files(name, seed=seed) for seed, name in enumerate((THEIRS, MINE))}
# Requests of each place, as `METHOD path`.
REQUESTS = {
    "head poll": "^HEAD /alice/cache/resolve/main/",
    "listing": "^GET /api/models/alice/cache/tree/",
    "paths-info": "^POST /api/models/alice/cache/paths-info/",
    "download": "^GET (/alice/cache/resolve|/content)/",
    "token route": "/xet-write-token/",
    "upload": "^(POST /v1/xorb|PUT |POST /v[12]/shards)",
    "commit": "^POST /api/models/alice/cache/commit/main",
}
SUCCESS = "-"
# How long a read, and a worker, may show no sign of life: where that is waited for, and where a busy machine may do it.
WAITED_FOR_S, NEVER_S = (1.0, 3.0), (20.0, 30.0)


class Host:
    """A Hub that holds THEIRS, and the remote of a host that wants it and brings MINE."""

    def __init__(self, hub: HubServer, folder: Path, limits_s: tuple[float, float]) -> None:
        self.hub = hub
        self.clock = Clock()
        self._folder = folder
        self._downloads = 0
        self._mine = outgoing(folder / "pinned", MINE, CONTENT[MINE])
        token = TokenSource(environ={"HF_TOKEN": hub.token("alice")})
        read_s, stall_s = limits_s
        self._make: Callable[[], HubRepoRemote] = lambda: HubRepoRemote(
            "hub",
            hub.endpoint,
            REPO,
            token,
            folder / "home",
            self.clock,
            read_s=read_s,
            stall_s=stall_s,
            conflict_pause_s=0.0,
        )
        self.remote = self._make()
        self._entry: RemoteEntry | None = None

    async def prepare(self) -> None:
        """What the host knew before the trouble began; connections of that time are closed."""
        self._entry = await self.remote.describe(THEIRS)
        assert self._entry is not None
        await self.remote.close()
        self.remote = self._make()

    async def act(self, place: str) -> str:
        """Use the remote where `place` is on the way; returns the outcome as the table names it."""
        try:
            return await self._read(place) if place in READS else await self._publish()
        except RemoteUnavailable as error:
            return error.reason
        except EntryRefused as error:
            return f"refused {error.reason}"

    async def _read(self, place: str) -> str:
        if place == "head poll":
            assert await self.remote.version(entries.NAMESPACE) == self.hub.head(REPO)
        elif place == "listing":
            assert THEIRS.key in await all_keys(self.remote, entries.NAMESPACE)
        elif place == "paths-info":
            assert await self.remote.describe(THEIRS) == self._entry
        else:
            await self._download()
        return SUCCESS

    async def _download(self) -> None:
        self._downloads += 1
        assert await fetched(self.remote, THEIRS, self._folder / f"download-{self._downloads}") == CONTENT[THEIRS]

    async def _publish(self) -> str:
        (outcome,) = await self.remote.publish([self._mine])
        if isinstance(outcome, EntryFailed):
            assert outcome.permanent
            return f"parked {outcome.reason}"
        assert outcome is PublishResult.STORED
        return SUCCESS


@pytest.fixture
async def host(tmp_path: Path, fault: str) -> AsyncIterator[Host]:
    async with HubServer(tmp_path / "hub") as hub:
        known_by_name(hub)
        hub.seed_files(REPO, {f"{THEIRS}/{file}": data for file, data in CONTENT[THEIRS].items()}, private=True)
        host = Host(hub, tmp_path, WAITED_FOR_S if "stall" in fault else NEVER_S)
        await host.prepare()
        yield host
        await host.remote.close()


def known_by_name(hub: HubServer) -> None:
    """So that the name can be lost."""
    hub.hub.endpoint = hub.hub.endpoint.replace("127.0.0.1", "localhost")


@contextlib.asynccontextmanager
async def trouble(fault: str, place: str, hub: HubServer) -> AsyncIterator[None]:
    """The fault, for as long as the block lasts."""
    if fault == "connect refused":
        await hub.stop()
        yield
        await hub.start()
        known_by_name(hub)
    elif fault == "name not found":
        with lost_name("localhost"):
            yield
    else:
        hub.add_fault(REQUESTS[place], times=None, **OPTIONS[fault])
        yield
        hub.clear_faults()


@contextlib.contextmanager
def lost_name(name: str) -> Iterator[None]:
    stock = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        if host == name:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return stock(host, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        yield


async def test_cell(host: Host, fault: str, place: str) -> None:
    async with trouble(fault, place, host.hub):
        assert await host.act(place) == OUTCOMES[fault, place]
    host.clock.pass_s(3_600)  # whatever wait the Hub asked for
    assert await host.act(place) == SUCCESS, "it heals by itself"
    files = host.hub.read_files(REPO)
    for name, content in CONTENT.items():
        on_hub = {path.removeprefix(f"{name}/"): data for path, data in files.items() if path.startswith(f"{name}/")}
        if name == THEIRS or place not in READS:
            assert entries.shared(on_hub) == content
    messages = [str(commit["message"]) for commit in host.hub.commits(REPO)]
    assert sum(str(MINE) in message for message in messages) == (0 if place in READS else 1)
