"""`status`: the status document, as the page `/status` shows it."""

from __future__ import annotations

from typing import Any, Protocol

from neff.protocol import Message
from neffd.serve.session import Session


class StatusSource(Protocol):
    """Who knows how the daemon is."""

    def status(self) -> dict[str, Any]:
        """The status document, from memory."""


class Status:
    """The operation."""

    def __init__(self, source: StatusSource) -> None:
        self._source = source

    def __call__(self, session: Session, number: int, message: Message) -> None:
        session.reply(number, status=self._source.status(), done=True)
