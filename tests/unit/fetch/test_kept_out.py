"""A fetched copy that a lock keeps out goes in when the lock goes, whatever fails in between."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from neff.keys import LockId
from neffd.breaker import Breaker
from neffd.compiles import lockfile
from neffd.fetch.fetcher import Fetcher
from neffd.fetch.flight import Flight
from neffd.fetch.refusals import Refusals
from neffd.layouts import xla
from neffd.metrics import Metrics
from neffd.remotes.base import Remote
from neffd.remotes.directory import DirectoryRemote
from neffd.slots import Line
from neffd.store.database import Database
from neffd.store.index import Index
from neffd.store.root import CacheRoot
from neffd.tasks import Tasks
from tests.harness import entries
from tests.unit.waiting import until

NAME = entries.module(1)


class Known:
    """A catalog of a remote that holds everything."""

    name = "shared"

    def __init__(self) -> None:
        self.reads = Breaker(time.monotonic)

    def version(self, namespace: str) -> str | None:
        return None

    async def holds(self, namespace: str, key: str) -> bool:
        return True

    async def ready_to_fetch(self, namespace: str) -> None:
        return None

    def knows_absent(self, namespace: str, key: str) -> bool:
        return False


class Host:
    """One that has fetched a copy which somebody's lock keeps out."""

    def __init__(self, root: CacheRoot, index: Index, fetcher: Fetcher, crashed: list[str]) -> None:
        self.root, self.index, self.fetcher, self.crashed = root, index, fetcher, crashed
        self.entry = root.entry(NAME)

    def lock(self) -> LockId:
        """Another one than before."""
        (self.entry / xla.LOCK).unlink(missing_ok=True)
        (self.entry / secrets.token_hex(4)).touch()  # or the new one would get the old one's inode
        (self.entry / xla.LOCK).touch()
        made = lockfile.identity(self.entry / xla.LOCK)
        assert made is not None
        return made


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    (tmp_path / "cache").mkdir()
    entries.write(tmp_path / "shared", NAME, entries.files(NAME))
    database, root, crashed = Database(tmp_path / "state"), CacheRoot(tmp_path / "cache"), list[str]()
    index, tasks = Index(database), Tasks(lambda name, error: crashed.append(f"{name}: {error!r}"))
    remote: Remote = DirectoryRemote("shared", tmp_path / "shared")
    space: Any = SimpleNamespace(reserve=lambda size_bytes: nullcontext(), used=lambda name: None)
    source: Any = SimpleNamespace(remote=remote, catalog=Known())
    with ThreadPoolExecutor(4) as workers:
        line = Line(4, 1 << 30)
        fetcher = Fetcher(
            root,
            [source],
            index,
            Refusals(database),
            tasks,
            Metrics(),
            workers,
            line=line,
            space=space,
            stall_s=9,
            worth_s=lambda *_: None,
        )
        tasks.start(fetcher.run(), name="fetcher")
        made = Host(root, index, fetcher, crashed)
        made.entry.mkdir(parents=True)
        (made.entry / "model.hlo_module.pb").write_bytes(b"a trainer's graph")
        made.lock()
        flight = fetcher.resolve(NAME)
        assert isinstance(flight, Flight)
        assert (await flight.outcome).reason == "locked"
        yield made
        await tasks.stop(5)
        await remote.close()
    database.close()


async def test_a_database_that_cannot_be_written_keeps_it_waiting(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    claims, claim = list[object](), host.index.note_claim

    def note_claim(*arguments: Any) -> None:
        claims.append(arguments)
        if len(claims) == 1:
            raise sqlite3.OperationalError("database or disk is full")
        claim(*arguments)

    monkeypatch.setattr(host.index, "note_claim", note_claim)
    (host.entry / xla.LOCK).unlink()  # its maker gave up
    host.fetcher.nudge()
    await until(lambda: host.root.is_ready(NAME), "the copy goes in")
    assert (host.crashed, len(claims) > 1) == ([], True)


async def test_the_owner_of_the_lock_has_it_put_in(host: Host) -> None:
    flight = host.fetcher.resolve(NAME, holding=host.lock())
    assert isinstance(flight, Flight)
    assert (await flight.outcome).ready
    assert host.root.is_ready(NAME)


async def test_it_does_not_go_in_under_the_lock_that_follows_the_askers(host: Host) -> None:
    """Whose maker writes the NEFF in its place."""
    async with host.fetcher._putting_in:  # the daemon is busy with another copy
        flight = host.fetcher.resolve(NAME, holding=host.lock())
        assert isinstance(flight, Flight)
        host.lock()
    assert (await flight.outcome).reason == "locked"
    assert not host.root.is_ready(NAME)
