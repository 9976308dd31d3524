"""Questions that come together are asked together, one batch at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from neffd.remotes.hub.together import Together
from neffd.tasks import Tasks


class Work:
    """Answers with the question, after `free` is set; notes every batch."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.began = asyncio.Event()
        self.free = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, questions: Sequence[str]) -> Sequence[str | Exception]:
        self.batches.append(list(questions))
        self.began.set()
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if "broken" in questions:
            raise OSError("broken")
        return [KeyError(question) if question == "wrong" else question for question in questions]


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    running = Tasks()
    yield running
    await running.stop(1.0)


async def test_what_comes_together_is_one_batch(tasks: Tasks) -> None:
    work = Work()
    work.free.set()
    together = Together(work, tasks, most=3)
    assert await asyncio.gather(*(together.ask(question) for question in "abcd")) == list("abcd")
    assert work.batches == [["a", "b", "c"], ["d"]]


async def test_the_order_is_that_of_the_moment(tasks: Tasks) -> None:
    work, last = Work(), {"c", "d"}
    together = Together(work, tasks, most=2, order=lambda question: question in last)
    running = [tasks.start(together.ask(question), name=question, watched=True) for question in "cabde"]
    await work.began.wait()
    last.remove("d")
    work.free.set()
    await asyncio.gather(*running)
    assert work.batches == [["a", "b"], ["d", "e"], ["c"]]


async def test_what_comes_meanwhile_is_the_next_batch(tasks: Tasks) -> None:
    work = Work()
    together = Together(work, tasks, most=3)
    first = tasks.start(together.ask("a"), name="a", watched=True)
    await work.began.wait()
    rest = [tasks.start(together.ask(question), name=question, watched=True) for question in "bc"]
    await asyncio.sleep(0)
    assert together.open == ["a", "b", "c"]
    work.free.set()
    assert await asyncio.gather(first, *rest) == ["a", "b", "c"]
    assert work.batches == [["a"], ["b", "c"]]
    assert together.open == []


async def test_each_gets_its_own_error_and_a_failed_batch_fails_for_all(tasks: Tasks) -> None:
    work = Work()
    work.free.set()
    together = Together(work, tasks, most=2)
    asked = [together.ask(question) for question in ("a", "wrong", "b", "broken")]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [str, KeyError, OSError, OSError]
    assert await together.ask("later") == "later"


async def test_work_that_nobody_waits_for_is_cancelled(tasks: Tasks) -> None:
    work = Work()
    together = Together(work, tasks, most=2)
    asked = [tasks.start(together.ask(question), name=question, watched=True) for question in "ab"]
    await work.began.wait()
    asked[0].cancel()
    await asyncio.wait({asked[0]})
    assert not work.cancelled.is_set()
    asked[1].cancel()
    await asyncio.wait_for(work.cancelled.wait(), 1.0)
    work.free.set()
    assert await together.ask("c") == "c"
