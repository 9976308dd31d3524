"""Questions that come together are asked together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from neffd.tasks import Tasks

Q = TypeVar("Q")
A = TypeVar("A")

# Long enough for the ranks that meet a graph together, short against a round trip.
_GATHER_S = 0.002


class Together(Generic[Q, A]):
    """Runs one batch at a time; what comes meanwhile makes the next one.

    Args:
        work: one answer, or the exception to raise, for each question in order. It is cancelled once nobody waits for
            any of its answers.
        most: questions in a batch.
        order: what comes first of those that are open, by `sorted`; each time anew, and as they came where it is equal.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]],
        tasks: Tasks,
        most: int,
        order: Callable[[Q], int] = lambda question: 0,
    ):
        self._work = work
        self._order = order
        self._tasks = tasks
        self._most = most
        self._open: list[tuple[Q, asyncio.Future[A]]] = []
        self._is_running = False

    @property
    def open(self) -> list[Q]:
        """What was asked and not answered."""
        return [question for question, answer in self._open if not answer.done()]

    async def ask(self, question: Q) -> A:
        """The answer to `question`; raises what `work` raises for it."""
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._open.append((question, answer))
        if not self._is_running:
            self._is_running = True
            self._tasks.start(self._run(), name="ask-together")
        return await answer

    async def _run(self) -> None:
        try:
            await asyncio.sleep(_GATHER_S)
            while waiting := [item for item in self._open if not item[1].done()]:
                batch = sorted(waiting, key=lambda item: self._order(item[0]))[: self._most]
                await self._run_batch(batch)
            self._open.clear()
        finally:
            self._is_running = False

    async def _run_batch(self, batch: list[tuple[Q, asyncio.Future[A]]]) -> None:
        work = self._tasks.start(self._answers([question for question, _ in batch]), name="ask-batch", watched=True)

        def stop_if_nobody_waits(_: object) -> None:
            if all(answer.cancelled() for _, answer in batch):
                work.cancel()

        for _, answer in batch:
            answer.add_done_callback(stop_if_nobody_waits)
        await asyncio.wait({work})
        for index, (_, answer) in enumerate(batch):
            if answer.done():
                continue
            outcome = work.result()[index] if not work.cancelled() else asyncio.CancelledError()
            if isinstance(outcome, BaseException):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)
        self._open = [item for item in self._open if not item[1].done()]

    async def _answers(self, questions: list[Q]) -> Sequence[A | Exception]:
        try:
            return await self._work(questions)
        except Exception as error:  # handed to everybody who asked
            return [error] * len(questions)
