"""`status`: the status document, as the page `/status` shows it."""

from __future__ import annotations

from typing import Any, Protocol

from neff import protocol
from neff.protocol import Message, ProtocolError
from neffd.serve.session import Session

# Lists of what may be very many; how many there are is said beside them where that matters.
_ROWS = frozenset({"problems", "parked", "shown", "fetching", "compiling", "running"})
_MOST_ROWS = (20, 5, 1)


class StatusSource(Protocol):
    """Who knows how the daemon is."""

    def status(self) -> dict[str, Any]:
        """The status document, from memory."""


class Status:
    """The operation."""

    def __init__(self, source: StatusSource) -> None:
        self._source = source

    def __call__(self, session: Session, number: int, message: Message) -> None:
        session.reply(number, status=_fitting(number, self._source.status()), done=True)


def _fitting(number: int, document: Message) -> Message:
    """The document with fewer rows of each list should it be too long for a line, as it is where all goes wrong."""
    shown = document
    for most in _MOST_ROWS:
        if _fits({"id": number, "status": shown, "done": True}):
            break
        shown = _shortened(document, most)
    return shown


def _fits(message: Message) -> bool:
    try:
        protocol.encode(message)
    except ProtocolError:
        return False
    return True


def _shortened(value: Any, most: int) -> Any:
    if isinstance(value, list):
        return [_shortened(item, most) for item in value]
    if not isinstance(value, dict):
        return value
    rows = {name: item[:most] for name, item in value.items() if name in _ROWS and isinstance(item, list)}
    return {name: _shortened(item, most) for name, item in {**value, **rows}.items()}
