"""Asking several remotes at once, and using them nearest first without waiting for one that is silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

# How long a remote that holds the entry is kept waiting for a nearer one to answer.
GRACE_S = 0.05


async def nearest_first(answers: Sequence[asyncio.Task[str]], yes: str, grace_s: float = GRACE_S) -> AsyncIterator[int]:
    """Positions of `answers`, nearest (first) first; one that says `yes` passes a silent nearer one after `grace_s`.

    Args:
        answers: what each remote says, in the order of preference; must not raise.
        yes: the answer that may overtake.
    """
    waiting = list(range(len(answers)))
    while waiting:
        position = await _next(answers, waiting, yes, grace_s)
        waiting.remove(position)
        yield position


async def _next(answers: Sequence[asyncio.Task[str]], waiting: list[int], yes: str, grace_s: float) -> int:
    nearest = answers[waiting[0]]
    while not nearest.done():
        farther = next((at for at in waiting if answers[at].done() and answers[at].result() == yes), None)
        if farther is not None:
            await asyncio.wait({nearest}, timeout=grace_s)
            return waiting[0] if nearest.done() else farther
        silent = {answers[at] for at in waiting if not answers[at].done()}
        await asyncio.wait(silent, return_when=asyncio.FIRST_COMPLETED)
    return waiting[0]
