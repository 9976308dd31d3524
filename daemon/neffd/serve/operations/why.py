"""`why`: the story of one module on this host."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Awaitable
from typing import Protocol

from neff import protocol
from neff.protocol import Message, ProtocolError, safe_text
from neffd.limits import MAX_STORIES, STORIES, Limits
from neffd.serve.session import BadRequest, Session

log = logging.getLogger(__name__)

_MAX_NAME_CHARS = 512


class StoryTeller(Protocol):
    """Who knows the stories: `neffd.care.care.Care`."""

    def why(self, text: str) -> Awaitable[Message]:
        """Everything known of a name, a bare key, or the unique beginning of one."""


class Why:
    """The operation."""

    def __init__(self, teller: StoryTeller, limits: Limits) -> None:
        self._teller = teller
        self._limits = limits

    def __call__(self, session: Session, number: int, message: Message) -> None:
        name = message.get("name")
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_CHARS:
            raise BadRequest("bad-request", f"name must be a text of 1 to {_MAX_NAME_CHARS} characters")
        session.start(number, self._tell(session, number, name), "why")

    async def _tell(self, session: Session, number: int, name: str) -> None:
        limits = self._limits
        if not limits.take(limits.stories, session.uid, STORIES):
            return session.error(number, "too-many", f"{MAX_STORIES} such questions of this user are open already")
        try:
            story = await self._teller.why(name)
        except (OSError, sqlite3.Error) as error:
            log.warning("why %s: %s", safe_text(name), error)
            return session.error(number, "unavailable", "the daemon's database or cache directory cannot be read")
        finally:
            limits.give_back(limits.stories, session.uid)
        session.reply(number, why=_fitting(story), done=True)
        return None


def _fitting(story: Message) -> Message:
    """The story without its oldest events, should it be too long for a line."""
    while (events := story.get("events")) and not _fits(story):
        story = {**story, "events": events[(len(events) + 1) // 2 :]}
    return story


def _fits(story: Message) -> bool:
    try:
        protocol.encode({"why": story})
    except ProtocolError:
        return False
    return True
