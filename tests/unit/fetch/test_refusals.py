"""Refused copies: not asked for again until they changed, over restarts too, and kept aside within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neff.keys import ModuleName
from neffd.catalog.catalog import Catalog
from neffd.catalog.saved import SavedListings
from neffd.fetch import refusals as module
from neffd.fetch.refusals import REASON_FILE, Refusals, fingerprint
from neffd.metrics import Metrics
from neffd.remotes.base import EntryRefused, RemoteEntry, RemoteFile, RemoteUnavailable
from neffd.remotes.directory import DirectoryRemote
from neffd.store.database import Database
from neffd.tasks import Tasks
from tests.harness import entries

NAME = entries.module(1)
TORN = EntryRefused("short-neff", "10 of 20 bytes")
GOOD_SHA, BAD_SHA = "a" * 64, "b" * 64


class Stating:
    """A remote that states digests, as the Hub does, and counts what it is asked."""

    name = "hub"

    def __init__(self) -> None:
        self.head = "v1"
        self.sha256: str | None = BAD_SHA
        self.is_away = False
        self.asked: list[str] = []

    async def prepare(self) -> None:
        return None

    async def version(self, namespace: str) -> str:
        self.asked.append("version")
        if self.is_away:
            raise RemoteUnavailable("server-error")
        return self.head

    async def describe(self, name: ModuleName) -> RemoteEntry | None:
        self.asked.append("describe")
        if self.is_away:
            raise RemoteUnavailable("server-error")
        if self.sha256 is None:
            return None
        return RemoteEntry(name, (RemoteFile("model.neff", 20, self.sha256),), revision=self.head)

    def was_asked(self) -> list[str]:
        asked, self.asked = self.asked, []
        return asked


class Host:
    """The refusals of one host, and its view of one remote."""

    def __init__(self, folder: Path, remote: Any) -> None:
        self.staging = folder / "staging"
        self.staging.mkdir(exist_ok=True)
        self._database = Database(folder / "state")
        self._tasks = Tasks()
        self.remote = remote
        self.refusals = Refusals(self._database)
        saved = SavedListings(self._database)
        self.catalog = Catalog(remote, self._tasks, Metrics(), saved, poll_s=3600, clock=time.monotonic)

    def staged(self, content: bytes = b"torn") -> Path:
        folder = self.staging / "fetch" / str(time.monotonic_ns())
        folder.mkdir(parents=True)
        (folder / "model.neff.part").write_bytes(content)
        return folder

    async def refuse(self, name: ModuleName = NAME, error: EntryRefused = TORN, content: bytes = b"torn") -> Path:
        staged = self.staged(content)
        await self.refusals.refuse(self.catalog, name, error, staged, self.staging)
        return staged

    async def stands(self, name: ModuleName = NAME, **options: bool) -> bool:
        return await self.refusals.stands(self.catalog, name, **options)

    def shown(self) -> list[dict[str, Any]]:
        shown: list[dict[str, Any]] = self.refusals.status(self.remote.name)["shown"]
        return shown

    async def close(self) -> None:
        await self._tasks.stop(5)
        await asyncio.to_thread(self._database.close)


@contextlib.asynccontextmanager
async def host_of(folder: Path, remote: Any) -> AsyncIterator[Host]:
    host = Host(folder, remote)
    await host.refusals.load()
    try:
        yield host
    finally:
        await host.close()


@pytest.fixture
def remote() -> Stating:
    return Stating()


@pytest.fixture
async def host(tmp_path: Path, remote: Stating) -> AsyncIterator[Host]:
    async with host_of(tmp_path, remote) as host:
        await host.catalog.look(NAME.namespace)
        remote.was_asked()
        yield host


async def test_nothing_is_asked_while_the_version_stands_still(host: Host, remote: Stating) -> None:
    assert not await host.stands()
    await host.refuse()
    remote.was_asked()
    for _ in range(3):
        assert await host.stands()
    assert remote.was_asked() == []
    assert not await host.stands(entries.module(2))


async def test_another_version_costs_one_look_and_forgets_only_what_changed(host: Host, remote: Stating) -> None:
    await host.refuse()
    remote.head = "v2"
    await host.catalog.look(NAME.namespace)
    remote.was_asked()
    assert await host.stands()
    assert await host.stands()
    assert remote.was_asked() == ["describe"]
    remote.head, remote.sha256 = "v3", GOOD_SHA
    await host.catalog.look(NAME.namespace)
    assert not await host.stands()
    assert host.shown() == []


@pytest.mark.parametrize("sha256", [None, GOOD_SHA])
async def test_who_must_know_for_sure_looks_at_once(host: Host, remote: Stating, sha256: str | None) -> None:
    await host.refuse()
    assert await host.stands(look=True)
    remote.sha256 = sha256
    assert await host.stands()
    assert not await host.stands(look=True)
    assert not await host.stands()


async def test_it_stands_while_nobody_can_say(host: Host, remote: Stating) -> None:
    await host.refuse()
    remote.is_away = True
    assert await host.stands(look=True)


async def test_a_restart_remembers_and_looks_at_the_version_once(tmp_path: Path, remote: Stating) -> None:
    async with host_of(tmp_path, remote) as host:
        await host.catalog.look(NAME.namespace)
        await host.refuse()
        shown = host.shown()
    remote.was_asked()
    async with host_of(tmp_path, remote) as host:
        assert host.shown() == shown
        assert await host.stands()
        assert await host.stands()
        assert remote.was_asked() == ["version"]


async def test_one_that_could_not_be_described_is_tried_again_when_the_version_moved(
    host: Host, remote: Stating
) -> None:
    remote.sha256 = None
    await host.refuse()
    assert await host.stands()
    remote.head, remote.sha256 = "v2", BAD_SHA
    await host.catalog.look(NAME.namespace)
    assert not await host.stands()


async def test_a_file_that_went_away_meanwhile_refuses_nothing(host: Host) -> None:
    staged = await host.refuse(error=EntryRefused("changed"))
    assert staged.exists()
    assert not await host.stands()


async def test_the_refused_copy_is_kept_with_its_reason(host: Host) -> None:
    staged = await host.refuse()
    assert not staged.exists()
    (shown,) = host.shown()
    folder = host.staging / "refused" / NAME.namespace / NAME.key
    assert shown == {"name": str(NAME), "reason": "short-neff", "folder": str(folder)}
    assert (folder / "model.neff.part").read_bytes() == b"torn"
    about = json.loads((folder / REASON_FILE).read_text())
    assert (about["remote"], about["reason"], about["name"]) == ("hub", "short-neff", str(NAME))


async def test_what_is_kept_is_bounded(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 3)
    monkeypatch.setattr(module, "MOST_KEPT_BYTES", 20_000)
    for number in range(5):
        await host.refuse(entries.module(number))
    kept = [shown["name"] for shown in host.shown() if shown["folder"]]
    assert kept == [str(entries.module(number)) for number in (4, 3, 2)]
    await host.refuse(entries.module(9), content=bytes(30_000))
    assert [shown["name"] for shown in host.shown() if shown["folder"]] == kept, "one that is too large displaces none"
    assert len(host.shown()) == 6, "known they are all the same"
    assert len(list((host.staging / "refused").glob("*/*"))) == 3


async def test_many_at_once_are_all_remembered(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each makes room for itself while others do: what went away for one was an error of the next."""
    monkeypatch.setattr(module, "MOST_KEPT", 3)
    names = [entries.module(number) for number in range(100)]
    await asyncio.gather(*(host.refuse(name) for name in names))
    assert [name for name in names if not await host.stands(name)] == []
    shown = host.refusals.status(host.remote.name)
    assert shown["count"] == len(names)
    kept = [copy["folder"] for copy in shown["shown"] if copy["folder"]]
    assert [folder for folder in kept if not Path(folder).is_dir()] == []


async def test_a_copy_that_cannot_be_kept_is_refused_all_the_same(host: Host) -> None:
    (host.staging / "refused").write_text("in the way")
    await host.refuse()
    assert await host.stands()
    assert host.shown()[0]["folder"] is None


@pytest.mark.parametrize("mend", ["written over", "removed and written"])
async def test_a_directory_that_was_mended_is_noticed(tmp_path: Path, mend: str) -> None:
    shared = tmp_path / "shared"
    content = entries.files(NAME)
    folder = entries.write(shared, NAME, content)
    remote = DirectoryRemote("shared", shared)
    async with host_of(tmp_path, remote) as host:
        await host.refuse()
        assert await host.stands()
        if mend == "removed and written":
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
        entries.write(shared, NAME, content)
        assert not await host.stands()
    await remote.close()


def _file(change: Callable[[RemoteFile], RemoteFile]) -> RemoteEntry:
    return RemoteEntry(NAME, (change(RemoteFile("model.neff", 20, GOOD_SHA)),), revision="v1")


def test_a_fingerprint_tells_copies_and_not_commits_apart() -> None:
    same = fingerprint(_file(lambda file: file))
    assert fingerprint(replace(_file(lambda file: file), revision="v2")) == same
    assert fingerprint(_file(lambda file: replace(file, sha256=BAD_SHA))) != same
    assert fingerprint(_file(lambda file: replace(file, size_bytes=21))) != same
    # A bucket's files state nothing; its revision is of the entry alone.
    bare = _file(lambda file: replace(file, sha256=None))
    assert fingerprint(replace(bare, revision="v2")) != fingerprint(bare)
