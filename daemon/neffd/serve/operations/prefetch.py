"""`prefetch`: names to be fetched, full or bare keys; the asker may wait for them."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Protocol

from neff.keys import ModuleName, is_module_key, parse_module_name
from neff.protocol import Message
from neffd.fetch.flight import Answer, Flight
from neffd.serve.fields import strings
from neffd.serve.following import answer_with, follow, progress
from neffd.serve.operations.guesses import Guesser, prefetch_guessed
from neffd.serve.session import Session


class NameFinder(Guesser, Protocol):
    """Who knows where a name without a cache directory belongs."""

    async def full_names(self, keys: Collection[str]) -> dict[str, list[ModuleName]]:
        """For each bare module key, the names under which remotes hold it; without those that nobody can tell of."""


class Prefetch:
    """The operation."""

    def __init__(self, finder: NameFinder) -> None:
        self._finder = finder

    def __call__(self, session: Session, number: int, message: Message) -> None:
        if "run" in message or "compiler" in message:
            return prefetch_guessed(self._finder, session, number, message)
        names = strings(message, "names")
        session.start(number, self._prefetch(session, number, names, bool(message.get("wait"))), "prefetch")
        return None

    async def _prefetch(self, session: Session, number: int, names: Sequence[str], wait: bool) -> None:
        began_at = time.perf_counter()
        flights: dict[str, Flight] = {}
        bare = [text for text in names if is_module_key(text)]
        if bare and not self._finder.limits.may_guess(session.uid):
            return session.error(number, "too-many", "this user has asked too much of that kind lately")
        full_names = await self._finder.full_names(bare) if bare else {}
        for text in names:
            answer = self._ask(session, text, full_names)
            if not isinstance(answer, Flight):
                answer_with(session, number, {"name": text}, answer)
            elif wait:
                flights[text] = answer
            else:
                session.reply(number, name=text, **progress(answer))
        await follow(session, number, "name", flights, began_at)
        return None

    def _ask(self, session: Session, text: str, full_names: dict[str, list[ModuleName]]) -> Answer | Flight:
        """`full_names` are those of the bare keys."""
        try:
            found = full_names.get(text) if is_module_key(text) else [parse_module_name(text)]
        except ValueError:
            return Answer(False, "bad-name")
        if found is None:
            return Answer(False, "remote-unavailable")
        if len(found) != 1:
            return Answer(False, "ambiguous-namespace" if found else "not-on-remotes")
        name = found[0]
        resolver = session.resolver or self._finder.resolver_for(name)
        return resolver.resolve(name, urgent=False) if resolver is not None else Answer(False, "no-cache-dir")
