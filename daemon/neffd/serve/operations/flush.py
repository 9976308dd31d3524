"""`flush`: send what waits for a remote without its quiet time, and tell how much is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from neff.protocol import Message
from neffd.serve.session import BadRequest, Session

_MAX_PARKED_SHOWN = 300


class Flusher(Protocol):
    """Who has the queue."""

    def flush(self, timeout_s: float, progress: Callable[[int], None]) -> Awaitable[tuple[int, list[dict[str, str]]]]:
        """Send what waits; returns what is still pending and what is parked."""


class Flush:
    """The operation."""

    def __init__(self, flusher: Flusher) -> None:
        self._flusher = flusher

    def __call__(self, session: Session, number: int, message: Message) -> None:
        session.start(self._flush(session, number, _timeout_s(message)), "flush")

    async def _flush(self, session: Session, number: int, timeout_s: float) -> None:
        pending, parked = await self._flusher.flush(timeout_s, lambda left: session.reply(number, pending=left))
        session.reply(number, pending=pending, parked=parked[:_MAX_PARKED_SHOWN], done=True)


def _timeout_s(message: Message) -> float:
    timeout_s = message.get("timeout_s", 60)
    if type(timeout_s) not in (int, float) or not 0 <= timeout_s <= 86_400:
        raise BadRequest("bad-request", "timeout_s must be from 0 to 86400")
    return float(timeout_s)
