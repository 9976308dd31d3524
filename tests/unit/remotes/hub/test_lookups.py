"""Questions about paths that come together go as one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from neffd.remotes.base import RemoteFile, RemoteUnavailable
from neffd.remotes.hub.client import MAX_PATHS_PER_REQUEST
from neffd.remotes.hub.lookups import Lookups
from neffd.tasks import Tasks

REVISION = "a" * 40


class Asked:
    """Answers that every path ending in `there` exists; keeps what it was asked."""

    def __init__(self) -> None:
        self.rounds: list[tuple[list[str], str]] = []
        self.error: Exception | None = None
        self.begun = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, paths: list[str], revision: str) -> Mapping[str, RemoteFile]:
        self.rounds.append((paths, revision))
        self.begun.set()
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return {path: RemoteFile(path, 1) for path in paths if path.endswith("there")}


@pytest.fixture
async def asked() -> Asked:
    return Asked()


@pytest.fixture
async def lookups(asked: Asked) -> Lookups:
    return Lookups(asked, Tasks())


async def test_questions_that_come_together_are_one_request(asked: Asked, lookups: Lookups) -> None:
    answers = await asyncio.gather(*(lookups.files([f"{n}/there", f"{n}/not", "both/there"], REVISION) for n in "abc"))
    assert [set(answer) for answer in answers] == [{f"{n}/there", "both/there"} for n in "abc"]
    ((paths, revision),) = asked.rounds
    assert revision == REVISION
    assert len(paths) == len(set(paths)) == 7


async def test_another_revision_is_another_request(asked: Asked, lookups: Lookups) -> None:
    await asyncio.gather(lookups.files(["there"], "a"), lookups.files(["there"], "b"))
    assert sorted(revision for _, revision in asked.rounds) == ["a", "b"]


async def test_no_request_holds_more_paths_than_the_hub_takes(asked: Asked, lookups: Lookups) -> None:
    questions = [[f"{n}/{i}/there" for i in range(MAX_PATHS_PER_REQUEST // 2 - 1)] for n in range(5)]
    answers = await asyncio.gather(*(lookups.files(paths, REVISION) for paths in questions))
    assert [list(answer) for answer in answers] == questions
    assert [len(paths) <= MAX_PATHS_PER_REQUEST for paths, _ in asked.rounds] == [True] * 3


async def test_an_error_reaches_every_asker(asked: Asked, lookups: Lookups) -> None:
    asked.error = RemoteUnavailable("rate-limited", retry_after_s=7)
    answers = await asyncio.gather(*(lookups.files([n], REVISION) for n in "abc"), return_exceptions=True)
    assert answers == [asked.error] * 3
    asked.error = None
    assert set(await lookups.files(["there"], REVISION)) == {"there"}


async def test_who_leaves_hurts_nobody(asked: Asked, lookups: Lookups) -> None:
    asked.may_answer.clear()
    leaving, staying = (asyncio.ensure_future(lookups.files([f"{n}/there"], REVISION)) for n in "ab")  # noqa: TID251
    await asked.begun.wait()
    leaving.cancel()
    asked.may_answer.set()
    assert set(await staying) == {"b/there"}
    assert leaving.cancelled()
    assert len(asked.rounds) == 1
