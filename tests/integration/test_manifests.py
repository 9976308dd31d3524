"""Run manifests on every kind of remote: several hosts tell, others find, and junk does no harm."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from neff.keys import ModuleName
from neffd.catalog.catalog import Catalog
from neffd.catalog.saved import SavedListings
from neffd.config import RemoteConfig
from neffd.config_sections import UploadConfig
from neffd.fetch.fetcher import Source
from neffd.metrics import Metrics
from neffd.publish.batch import Item, Limits
from neffd.publish.journal import Journal
from neffd.publish.push import Pusher
from neffd.publish.take import Trust, take
from neffd.remotes.base import PublishResult, Remote
from neffd.remotes.directory import DirectoryRemote
from neffd.remotes.hub.bucket import HubBucketRemote
from neffd.remotes.hub.repo import HubRepoRemote
from neffd.remotes.hub.tokens import TokenSource
from neffd.runs.library import Library
from neffd.runs.manifests import Manifest, UsedModule, union
from neffd.store.database import Database
from neffd.store.index import LOCAL, Index
from neffd.store.root import CacheRoot
from neffd.tasks import Tasks
from tests.harness import entries
from tests.harness.files import below
from tests.hub import HubServer
from tests.unit.waiting import until

REPO = "alice/cache"
KINDS = pytest.mark.parametrize("kind", ["directory", "repo", "bucket"])
RUN_KEY = "RUN_" + "ab" * 16
OTHER_KEY = "RUN_" + "cd" * 16
INGREDIENTS = {"version": 1, "model": {"id": "org/name", "type": "llama"}, "shapes": {"batch_size": 1}}


def manifest(*numbers: int, run_key: str = RUN_KEY, batch_size: int = 1, compile_s: float = 3.0) -> Manifest:
    ingredients = {**INGREDIENTS, "shapes": {"batch_size": batch_size}}
    used = tuple(UsedModule(entries.module(number).key, 20_000, compile_s) for number in numbers)
    return Manifest(entries.NAMESPACE, run_key, ingredients, used)


class Host:
    """A host with one remote: its journal, its pusher, its library."""

    def __init__(self, home: Path, remote: Remote, *, quiet_s: float = 0.2) -> None:
        self.metrics, self.tasks = Metrics(), Tasks()
        (home / "cache").mkdir(parents=True)
        self.root = CacheRoot(home / "cache")
        self.database = Database(home / "state")
        self.journal = Journal(self.database, Index(self.database))
        self.remote = remote
        saved = SavedListings(self.database)
        self.catalog = Catalog(remote, self.tasks, self.metrics, saved, poll_s=0.5, clock=time.monotonic)
        self.source = Source(remote, self.catalog)
        self.library = Library(self.database, self.tasks, self.metrics, [self.source], time.monotonic)
        upload = UploadConfig(quiet_s=quiet_s, max_delay_s=max(quiet_s, 1.0))
        config = RemoteConfig(url="file:///shared", name=remote.name, mode="read-write")
        self.outgoing = self.library.outgoing(config, upload, self.source)
        self.pusher = Pusher(
            remote,
            self.journal,
            self.metrics,
            Limits(quiet_s, max(quiet_s, 1.0), 10**9, 1_000),
            allow_public=False,
            existing="always",
            companions=self.outgoing,
            on_outcome=self._delivered,
        )
        self.tasks.start(self.pusher.run(), name="push")

    def _delivered(self, name: ModuleName, outcome: str) -> None:
        if outcome in {result.value for result in PublishResult}:
            self.catalog.learn(*name)

    async def make(self, *numbers: int) -> None:
        """Compile entries; they wait for the remote then, together."""
        for item in [await asyncio.to_thread(self._take, number) for number in numbers]:
            self.pusher.add(item)

    def _take(self, number: int) -> Item:
        name = entries.module(number)
        entries.write(self.root.path, name, entries.files(name, seed=number))
        looks = self.root.inspect(name)
        taken = take(self.root, name, looks, Trust.of(self.root.path, None, None), origin=LOCAL)
        return self.journal.insert_blocking(taken, {self.remote.name})

    async def until_told(self) -> None:
        """Until the remote has everything, and was told of it."""
        await until(lambda: not self.pusher.waiting and not self.outgoing.status()["waiting"], "the remote", 30.0)

    async def found(self, run_key: str = RUN_KEY, batch_size: int = 1) -> list[int]:
        """Numbers of the modules that runs of this key used, as the remote tells."""
        ingredients = manifest(batch_size=batch_size).ingredients
        found = await self.library.find(entries.NAMESPACE, run_key, ingredients)
        numbers = {entries.module(number).key: number for number in range(100)}
        return [numbers[module.key] for module in union(found.same_key)]

    async def until_found(self, *numbers: int) -> None:
        """Until the remote tells of these: a first answer may be one of a process that starts."""
        deadline = time.monotonic() + 20
        while (found := await self.found()) != list(numbers):
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.1)

    async def close(self) -> None:
        assert await self.tasks.stop(5.0) == []
        await self.remote.close()
        await asyncio.to_thread(self.database.close)


class World:
    """A remote of one kind, with hosts that use it."""

    def __init__(self, kind: str, folder: Path, hub: HubServer | None) -> None:
        self._kind = kind
        self._folder = folder
        self.hub = hub
        self._hosts: list[Host] = []
        self._shared = folder / "shared"
        self._shared.mkdir()

    def host(self, **options: Any) -> Host:
        home = self._folder / f"host-{len(self._hosts)}"
        host = Host(home, self._remote(home), **options)
        self._hosts.append(host)
        return host

    def _remote(self, home: Path) -> Remote:
        if self.hub is None:
            return DirectoryRemote("team", self._shared)
        tokens = TokenSource(environ={"HF_TOKEN": self.hub.token("alice")})
        if self._kind == "repo":
            return HubRepoRemote("team", self.hub.endpoint, REPO, tokens, home / "hub", conflict_pause_s=0.05)
        return HubBucketRemote("team", self.hub.endpoint, REPO, tokens, home / "hub")

    def files(self) -> dict[str, bytes]:
        """Everything below 0_RUNS."""
        if self.hub is None:
            paths = below(self._shared)
            files = {str(path.relative_to(self._shared)): path.read_bytes() for path in paths}
        else:
            files = self.hub.read_files(REPO) if self._kind == "repo" else self.hub.read_bucket(REPO)
        return {path: data for path, data in files.items() if "/0_RUNS/" in path}

    def seed(self, files: dict[str, bytes]) -> None:
        """Put files there by hand."""
        if self.hub is None:
            for path, data in files.items():
                (self._shared / path).parent.mkdir(parents=True, exist_ok=True)
                (self._shared / path).write_bytes(data)
        elif self._kind == "repo":
            self.hub.seed_files(REPO, files, private=True)
        else:
            self.hub.seed_bucket(REPO, files, private=True)

    def commits(self) -> int:
        assert self.hub is not None
        return len(self.hub.commits(REPO))

    async def close(self) -> None:
        for host in self._hosts:
            await host.close()


@pytest.fixture
async def make_world(tmp_path: Path) -> AsyncIterator[Callable[[str], Awaitable[World]]]:
    async with contextlib.AsyncExitStack() as stack:

        async def make(kind: str) -> World:
            hub = None
            if kind != "directory":
                hub = await stack.enter_async_context(HubServer(tmp_path / "hub"))
            world = World(kind, tmp_path, hub)
            if hub is not None:
                world.seed({})
            stack.push_async_callback(world.close)
            return world

        yield make


MakeWorld = Callable[[str], Awaitable[World]]


@KINDS
async def test_two_hosts_tell_of_their_halves_at_once_and_a_third_finds_the_whole(
    make_world: MakeWorld, kind: str
) -> None:
    world = await make_world(kind)
    hosts, third = [world.host(), world.host()], world.host()
    halves = [(1, 2, 3, 4), (3, 4, 5, 6)]
    await asyncio.gather(*(host.make(*half) for host, half in zip(hosts, halves, strict=True)))
    await asyncio.gather(
        *(
            host.library.offer(manifest(*half, compile_s=float(half[0])), private=False, run=str(half))
            for host, half in zip(hosts, halves, strict=True)
        )
    )
    await asyncio.gather(*(host.until_told() for host in hosts))
    for host in (third, hosts[0]):
        await host.until_found(1, 2, 3, 4, 5, 6)
    assert len(world.files()) == 2
    assert await third.found(OTHER_KEY) == []
    found = await third.library.find(entries.NAMESPACE, OTHER_KEY, manifest(batch_size=1).ingredients)
    assert {one.run_key for one in found.nearest} == {RUN_KEY}
    assert (found.away, len(found.sources)) == ([], 2)
    # What is known already is not told again.
    await hosts[0].catalog.refresh(entries.NAMESPACE)
    await hosts[0].library.offer(manifest(5, 2), private=False)
    hosts[0].pusher.flush()
    await hosts[0].until_told()
    assert len(world.files()) == 2


async def test_a_manifest_costs_no_commit_where_entries_go(make_world: MakeWorld) -> None:
    world = await make_world("repo")
    host = world.host()
    await until(lambda: host.pusher.access, "whether we may write", 20.0)
    before = world.commits()
    await host.library.offer(manifest(1, 2), private=False, has_ended=False)
    await host.make(1, 2)  # later: a batch waits only so long
    await until(lambda: not host.pusher.waiting, "the remote", 20.0)
    assert (world.commits() - before, len(world.files())) == (1, 1)
    # What only found entries of others has one commit of its own, whatever comes later.
    for numbers in ((2, 1, 3), (2, 1, 3, 4)):
        await host.library.offer(manifest(*numbers, run_key=OTHER_KEY), private=False, run="again")
        await until(lambda: len(world.files()) == 2, "a commit of its own", 20.0)
    await host.make(3, 4)
    await host.until_told()
    assert (world.commits() - before, len(world.files())) == (3, 3)
    assert (await host.found(OTHER_KEY))[:2] == [2, 1]


def junk() -> dict[str, bytes]:
    """What a hostile or broken writer may leave, beside one good manifest."""
    folder = f"{entries.NAMESPACE}/0_RUNS/llama/org/name"
    key = entries.module(1).key

    def named(data: bytes) -> tuple[str, bytes]:
        return f"{folder}/{RUN_KEY}-{hashlib.sha256(data).hexdigest()[:8]}.json", data

    def body(modules: list[Any]) -> bytes:
        return json.dumps({"format": 1, "run_key": RUN_KEY, "ingredients": {}, "modules": modules}).encode()

    huge = body([{"key": f"MODULE_{number}+00000000"} for number in range(100_000)])
    many = body([{"key": f"MODULE_{number}+00000000"} for number in range(10_001)])
    absurd = body([{"key": key, "size_bytes": 10**40, "compile_s": -1e300}])
    foreign = body([{"key": "../../../etc/passwd"}])
    elsewhere = body([{"key": "neuronxcc-9.9.9+none/MODULE_1+00000000"}])
    files = dict(map(named, [huge, many, absurd, foreign, elsewhere, b"{", b"[" * 100_000]))
    return {
        **files,
        f"{folder}/{RUN_KEY}-00000000.json": b"{}",
        f"{folder}/notes.txt": b"hello",
        f"neuronxcc-9.9.9+none/0_RUNS/llama/org/name/{RUN_KEY}-00000000.json": b"{}",
    }


@KINDS
async def test_junk_has_reasons_and_does_no_harm(make_world: MakeWorld, kind: str) -> None:
    world = await make_world(kind)
    world.seed(junk())
    host = world.host()
    await host.make(1, 2)
    await host.library.offer(manifest(1, 2), private=False)
    await host.until_told()
    reasons = ("too-large", "too-many-modules", "bad-key", "not-a-manifest", "digest-mismatch", "bad-path")

    await host.until_found(1, 2)
    for _ in range(2):  # what is none is read, and counted, once
        found = await host.library.find(entries.NAMESPACE, RUN_KEY, INGREDIENTS)
        assert [module.key for module in union(found.same_key)] == [entries.module(number).key for number in (1, 2)]
        assert all(module.size_bytes in (20_000, None) for module in union(found.same_key))
        counted = [
            host.metrics.value("neffd_manifests_refused_total", remote="team", reason=reason) for reason in reasons
        ]
        assert counted == [1, 1, 2, 2, 1, 1]
    assert (await host.library.find("neuronxcc-7.7.7+none", RUN_KEY, INGREDIENTS)).same_key == []
    assert host.catalog.trouble is None
