"""A fetched copy that a lock keeps out goes in when the lock goes, whatever fails in between."""

from __future__ import annotations

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from neffd.breaker import Breaker
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


async def test_a_database_that_cannot_be_written_keeps_it_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        entry = root.entry(NAME)
        entry.mkdir(parents=True)
        (entry / "model.hlo_module.pb").write_bytes(b"a trainer's graph")
        (entry / xla.LOCK).touch()
        flight = fetcher.resolve(NAME)
        assert isinstance(flight, Flight)
        assert (await flight.outcome).reason == "locked"
        claims, claim = list[object](), index.note_claim

        def note_claim(*arguments: Any) -> None:
            claims.append(arguments)
            if len(claims) == 1:
                raise sqlite3.OperationalError("database or disk is full")
            claim(*arguments)

        monkeypatch.setattr(index, "note_claim", note_claim)
        (entry / xla.LOCK).unlink()  # its maker gave up
        fetcher.nudge()
        await until(lambda: root.is_ready(NAME), "the copy goes in")
        assert (crashed, len(claims) > 1) == ([], True)
        await tasks.stop(5)
        await remote.close()
    database.close()
