"""Entries of a bucket on their way down: who comes first, and what those who wait are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from neff.keys import ModuleName
from neffd.remotes.base import RemoteEntry, RemoteFile, RemoteUnavailable
from neffd.remotes.hub.bucket_download import BucketDownloads
from neffd.tasks import Tasks
from tests.harness import entries
from tests.unit.remotes.fetching import Waiting

CONTENT = b"0123456789"
Progress = Callable[[Sequence[tuple[int, int]]], None]


class Worker:
    """Writes what it is asked for, once it may; notes every call."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.progress: Progress = lambda grown: None
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()
        self.poison: str | None = None

    async def __call__(self, files: list[list[Any]], on_progress: Progress) -> None:
        self.calls.append([str(path) for path, *_ in files])
        self.progress = on_progress
        self.began.set()
        await self.may_end.wait()
        if any(path == self.poison for path, *_ in files):
            raise RemoteUnavailable("stalled")
        for _, _, _, target in files:
            Path(target).write_bytes(CONTENT)


async def _in_thread(work: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.to_thread(work, *args)


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    running = Tasks()
    yield running
    await running.stop(1.0)


class Host:
    """Somebody who fetches."""

    def __init__(self, tasks: Tasks, folder: Path, *, most: int = 4) -> None:
        self.worker = Worker()
        self._tasks, self._folder = tasks, folder
        self._downloads = BucketDownloads(self.worker, _in_thread, tasks, most=most)

    def get(self, number: int, watcher: Waiting) -> asyncio.Task[Any]:
        entry = _entry(entries.module(number))
        folder = self._folder / str(number)
        folder.mkdir()
        return self._tasks.start(self._downloads.get(entry, folder, watcher), name=str(number), watched=True)


def _entry(name: ModuleName) -> RemoteEntry:
    return RemoteEntry(name, (RemoteFile("model.neff", len(CONTENT)),), json.dumps({"model.neff": "a" * 64}))


def _path(number: int) -> str:
    return f"{entries.module(number)}/model.neff"


async def test_what_a_rank_waits_for_by_now_comes_first(tasks: Tasks, tmp_path: Path) -> None:
    host = Host(tasks, tmp_path, most=1)
    first, ahead, asked_for = (Waiting(is_urgent=False) for _ in range(3))
    under_way = [host.get(number, watcher) for number, watcher in enumerate([first, ahead, asked_for])]
    await host.worker.began.wait()
    asked_for.is_urgent = True
    host.worker.may_end.set()
    await asyncio.gather(*under_way)
    assert host.worker.calls == [[_path(0)], [_path(2)], [_path(1)]]


async def test_bytes_are_told_to_their_own_and_a_sign_to_who_waits(tasks: Tasks, tmp_path: Path) -> None:
    host = Host(tasks, tmp_path, most=2)
    watchers = [Waiting() for _ in range(3)]
    under_way = [host.get(number, watcher) for number, watcher in enumerate(watchers)]
    await host.worker.began.wait()
    host.worker.progress([(1, 4)])
    assert [watcher.moved_bytes for watcher in watchers] == [0, 4, 0]
    assert [watcher.signs for watcher in watchers] == [1, 0, 1]
    host.worker.progress([])
    assert [watcher.signs for watcher in watchers] == [2, 1, 2]
    host.worker.may_end.set()
    await asyncio.gather(*under_way)
    assert [watcher.moved_bytes for watcher in watchers] == [len(CONTENT)] * 3


async def test_what_comes_a_second_time_is_not_counted_twice(tasks: Tasks, tmp_path: Path) -> None:
    """The first try fails for the other entry's sake."""
    host = Host(tasks, tmp_path)
    host.worker.poison = _path(1)
    sound, poisoned = Waiting(), Waiting()
    under_way = [host.get(number, watcher) for number, watcher in enumerate([sound, poisoned])]
    await host.worker.began.wait()
    host.worker.progress([(0, 6), (1, 6)])
    host.worker.may_end.set()
    outcomes = await asyncio.gather(*under_way, return_exceptions=True)
    assert isinstance(outcomes[1], RemoteUnavailable)
    assert not isinstance(outcomes[0], BaseException)
    assert (sound.moved_bytes, poisoned.moved_bytes) == (len(CONTENT), 6)
    assert host.worker.calls == [[_path(0), _path(1)], [_path(0)], [_path(1)]]
