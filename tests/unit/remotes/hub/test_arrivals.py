"""Entries on their way down that are given up at a bad moment: nobody else waits for what they began."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from neffd.remotes.base import EntryRefused, RemoteEntry, RemoteFile
from neffd.remotes.hub.arrivals import Arrivals, Sink
from neffd.remotes.hub.files import IncomingFile
from neffd.remotes.hub.statements import Statements
from neffd.slots import Asker
from neffd.tasks import Tasks
from tests.harness import entries
from tests.unit.remotes.fetching import Waiting

_FLAGS = b'["--target=trn1"]'
_FILES = {"model.neff": b"\0neff", "compile_flags.json": _FLAGS}


class Line:
    """Files come over it once `is_well`; before that a NEFF is refused, and the rest hangs and is slow to let go."""

    def __init__(self) -> None:
        self.is_well = False
        self.letting_go, self.may_go = asyncio.Event(), asyncio.Event()

    async def __call__(
        self, revision: str, path: str, sink: Sink, progress: Callable[[int], None], asker: Asker
    ) -> tuple[IncomingFile, list[bytes]]:
        file = path.rpartition("/")[2]
        if self.is_well:
            return await sink(), [_FILES[file]]
        if file == "model.neff":
            raise EntryRefused("size-mismatch", "longer than stated")
        try:
            await asyncio.Event().wait()
        finally:
            self.letting_go.set()
            await self.may_go.wait()
        raise AssertionError


async def describe(name: Any, revision: str) -> RemoteEntry:
    files = [RemoteFile(file, len(data), hashlib.sha256(data).hexdigest(), None) for file, data in _FILES.items()]
    return RemoteEntry(name, tuple(files), revision)


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    made = Tasks()
    yield made
    await made.stop(5)


async def test_one_that_is_given_up_while_it_ends_leaves_nobody_waiting(tasks: Tasks, tmp_path: Path) -> None:
    line = Line()
    statements = Statements(None, lambda: False, tasks)  # type: ignore[arg-type]
    arrivals = Arrivals(describe, line, lambda: False, tasks, asyncio.to_thread, statements)
    first, second = (entries.module(number) for number in (1, 2))
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    fetching = tasks.start(arrivals.fetch(first, "r", tmp_path / "first", Waiting()), name="first", watched=True)
    await line.letting_go.wait()
    fetching.cancel()
    await asyncio.wait({fetching})
    line.may_go.set()
    line.is_well = True
    fetched = await asyncio.wait_for(arrivals.fetch(second, "r", tmp_path / "second", Waiting()), 10)
    assert fetched is not None
    assert fetched.digests.keys() == _FILES.keys()


async def test_what_waits_for_a_place_hears_that_something_moves(
    tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neffd.remotes.hub.arrivals._PARALLEL_FILES", 1)
    monkeypatch.setattr("neffd.remotes.hub.arrivals._FILES_KEPT_FREE", 0)
    under_way: list[tuple[str, Callable[[int], None]]] = []
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def line(
        revision: str, path: str, sink: Sink, progress: Callable[[int], None], asker: Asker
    ) -> tuple[IncomingFile, list[bytes]]:
        under_way.append((path, progress))
        has_begun.set()
        await may_end.wait()
        return await sink(), [_FILES[path.rpartition("/")[2]]]

    async def neff_alone(name: Any, revision: str) -> RemoteEntry:
        neff = RemoteFile("model.neff", len(_FILES["model.neff"]), hashlib.sha256(name.key.encode()).hexdigest())
        return RemoteEntry(name, (neff,), revision)

    arrivals = Arrivals(
        neff_alone,
        line,
        lambda: False,
        tasks,
        asyncio.to_thread,
        Statements(None, lambda: False, tasks),  # type: ignore[arg-type]
    )
    watchers = [Waiting(), Waiting()]
    for number, watcher in enumerate(watchers):
        (tmp_path / str(number)).mkdir()
        fetch = arrivals.fetch(entries.module(number), "r", tmp_path / str(number), watcher)
        tasks.start(fetch, name=str(number), watched=True)
    await has_begun.wait()
    ((path, progress),) = under_way
    first = path.startswith(str(entries.module(1)))
    progress(1)
    assert (watchers[first].moved_bytes, watchers[first].signs) == (1, 0)
    assert (watchers[not first].moved_bytes, watchers[not first].signs) == (0, 1)
    progress(0)
    assert watchers[first].signs == 1
