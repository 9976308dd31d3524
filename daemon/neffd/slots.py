"""How much may be on its way down at once, and who goes first: what somebody waits for before the rest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

# Of what is urgent, nobody knows when it comes: this part of all room is kept free for it.
_KEPT_FREE = 0.25


class Asker(Protocol):
    """Whoever wants in. It may become urgent while it waits."""

    @property
    def is_urgent(self) -> bool:
        """Whether a trainer waits for it."""


@dataclass(eq=False)
class _Waiter:
    asker: Asker
    amount: int
    admitted: asyncio.Future[None]


class Slots:
    """A bounded amount of something (places, bytes), given out in order, urgent askers first.

    What is larger than the whole goes alone of its kind. Nobody overtakes within its kind, so that large ones get their
    turn.

    Args:
        most: how much may be held together.
        kept_free: how much of it those who are not urgent leave alone.
    """

    def __init__(self, most: int, kept_free: int = 0) -> None:
        self._most = most
        self._kept_free = kept_free
        self._waiting: list[_Waiter] = []
        self.held = 0

    async def enter(self, asker: Asker, amount: int = 1) -> None:
        """Wait for `amount`; whoever got it has to `leave`."""
        if self.try_enter(asker, amount):
            return
        waiter = _Waiter(asker, amount, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            await waiter.admitted
        except asyncio.CancelledError:
            if waiter.admitted.cancelled():
                self.reconsider()
            else:  # let in at the very moment
                self.leave(amount)
            raise

    def try_enter(self, asker: Asker, amount: int = 1) -> bool:
        """Take `amount` if that is possible at once, and nobody else's turn."""
        is_next = all(asker.is_urgent and not waiter.asker.is_urgent for waiter in self._waiting)
        if not is_next or not self._fits(asker, amount):
            return False
        self.held += amount
        return True

    def leave(self, amount: int = 1) -> None:
        """Give back `amount`."""
        self.held -= amount
        self.reconsider()

    def reconsider(self) -> None:
        """Let in whoever may go; to be called, too, when somebody who waits has become urgent."""
        self._waiting = [waiter for waiter in self._waiting if not waiter.admitted.done()]  # but who has given up
        while self._waiting:
            waiter = next((one for one in self._waiting if one.asker.is_urgent), self._waiting[0])
            if not self._fits(waiter.asker, waiter.amount):
                return
            self._waiting.remove(waiter)
            self.held += waiter.amount
            waiter.admitted.set_result(None)

    @contextlib.asynccontextmanager
    async def hold(self, asker: Asker, amount: int = 1) -> AsyncIterator[None]:
        """`enter`, and `leave` at the end of the block. However large, it leaves alone what its kind has to."""
        amount = min(amount, self._limit(asker))
        await self.enter(asker, amount)
        try:
            yield
        finally:
            self.leave(amount)

    def _fits(self, asker: Asker, amount: int) -> bool:
        return self.held == 0 or self.held + amount <= self._limit(asker)

    def _limit(self, asker: Asker) -> int:
        return self._most if asker.is_urgent else self._most - self._kept_free


class Line:
    """What all cache directories of the host share: room for entries, and for their bytes, on the way down.

    Args:
        most_entries: entries under way at once.
        most_bytes: what these may hold together, until they are in place.
    """

    def __init__(self, most_entries: int, most_bytes: int) -> None:
        self._entries = Slots(most_entries, int(most_entries * _KEPT_FREE))
        self._bytes = Slots(most_bytes, int(most_bytes * _KEPT_FREE))

    @contextlib.asynccontextmanager
    async def hold(self, asker: Asker, size_bytes: int) -> AsyncIterator[None]:
        """Wait for the turn of one entry of that size."""
        async with self._entries.hold(asker), self._bytes.hold(asker, size_bytes):
            yield

    def reconsider(self) -> None:
        """Somebody who may be waiting has become urgent."""
        self._entries.reconsider()
        self._bytes.reconsider()
