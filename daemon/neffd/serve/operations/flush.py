"""`flush`: send what waits for a remote without its quiet time, and tell how much is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from neff.protocol import Message
from neffd.limits import FLUSHES, MAX_FLUSHES, Limits
from neffd.serve.session import BadRequest, Session

_MAX_PARKED_SHOWN = 300


class Flusher(Protocol):
    """Who has the queue."""

    limits: Limits

    def flush(
        self, timeout_s: float, progress: Callable[[int], None], *, hurry: bool
    ) -> Awaitable[tuple[int, list[dict[str, str]]]]:
        """Send what waits, before its time if in a hurry; returns what is still pending and what is parked."""


class Flush:
    """The operation."""

    def __init__(self, flusher: Flusher) -> None:
        self._flusher = flusher

    def __call__(self, session: Session, number: int, message: Message) -> None:
        session.start(number, self._flush(session, number, _timeout_s(message)), "flush")

    async def _flush(self, session: Session, number: int, timeout_s: float) -> None:
        limits = self._flusher.limits
        if not limits.take(limits.flushes, session.uid, FLUSHES):
            return session.error(number, "too-many", f"{MAX_FLUSHES} flushes of this user go on already")
        try:
            hurry = limits.may_hurry(session.uid)
            pending, parked = await self._flusher.flush(
                timeout_s, lambda left: session.reply(number, pending=left), hurry=hurry
            )
            shown = parked[:_MAX_PARKED_SHOWN]
            more = {"parked_count": len(parked)} if len(parked) > len(shown) else {}
            session.reply(number, pending=pending, parked=shown, **more, done=True)
        finally:
            limits.give_back(limits.flushes, session.uid)
        return None


def _timeout_s(message: Message) -> float:
    timeout_s = message.get("timeout_s", 60)
    if type(timeout_s) not in (int, float) or not 0 <= timeout_s <= 86_400:
        raise BadRequest("bad-request", "timeout_s must be from 0 to 86400")
    return float(timeout_s)
