"""What is said of a disk that failed a fetch, and when that is over."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neffd.fetch.diskdoubt import DiskDoubt
from neffd.serve.status import Problems
from neffd.store.database import Database
from neffd.store.index import Index
from neffd.store.root import CacheRoot

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Watched(Problems):
    """Knows which threads have changed it."""

    def __init__(self) -> None:
        super().__init__("cache")
        self.changed_by: set[int] = set()

    def note(self, reason: str, detail: str, hint: str, subject: str = "") -> None:
        self.changed_by.add(threading.get_ident())
        super().note(reason, detail, hint, subject)

    def over(self, reason: str, hint: str | None = None, subject: str | None = None) -> None:
        self.changed_by.add(threading.get_ident())
        super().over(reason, hint, subject)


@pytest.fixture
def problems() -> Watched:
    return Watched()


@pytest.fixture
def doubt(tmp_path: Path, problems: Watched) -> Iterator[DiskDoubt]:
    database = Database(tmp_path / "state")
    yield DiskDoubt(CacheRoot(tmp_path / "cache"), Index(database), problems)
    database.close()


async def test_it_is_over_once_something_was_written(doubt: DiskDoubt, problems: Watched) -> None:
    doubt.failed(FULL)
    assert doubt.is_in_doubt
    await doubt.look(asyncio.to_thread)
    assert (doubt.is_in_doubt, problems.status()) == (False, [])
    assert problems.changed_by == {threading.get_ident()}, "others go through them on the event loop meanwhile"


async def test_what_fails_during_a_look_is_not_over_by_it(doubt: DiskDoubt, problems: Watched) -> None:
    async def and_fails_again(work: Callable[[], bool]) -> bool:
        can_write = await asyncio.to_thread(work)
        doubt.failed(FULL)
        return can_write

    doubt.failed(FULL)
    await doubt.look(and_fails_again)
    assert doubt.is_in_doubt
    assert [problem["reason"] for problem in problems.status()] == ["disk"]
    await doubt.look(asyncio.to_thread)
    assert (doubt.is_in_doubt, problems.status()) == (False, [])


async def test_what_only_went_away_says_nothing_of_the_disk(doubt: DiskDoubt, problems: Watched) -> None:
    doubt.failed(FileNotFoundError(errno.ENOENT, "gone"))
    assert (doubt.is_in_doubt, problems.status()) == (False, [])
