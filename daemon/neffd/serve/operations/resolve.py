"""`resolve`: can these keys be had? What is known is answered at once, only the rest needs a task."""

from __future__ import annotations

import time
from typing import Any

from neff.keys import ModuleName, is_module_key, is_namespace
from neff.protocol import Message
from neffd.fetch.flight import Answer, Flight
from neffd.serve.fields import strings
from neffd.serve.following import answer_with, finish, follow
from neffd.serve.session import Session


def resolve(session: Session, number: int, message: Message) -> None:
    """The operation."""
    began_at = time.perf_counter()
    namespace, module_keys = message.get("namespace"), strings(message, "keys")
    holding = set(strings(message, "holding"))
    flights: dict[str, Flight] = {}
    for key in module_keys:
        name = _name(namespace, key)
        answer = _ask(session, name, holding=key in holding)
        if isinstance(answer, Flight):
            flights[key] = answer
        else:
            answer_with(session, number, {"key": key}, answer, name)
    if flights:
        held = [flight for key, flight in flights.items() if key in holding]
        session.start(follow(session, number, "key", flights, began_at, held), "resolve")
    else:
        finish(session, number, began_at)


def _name(namespace: Any, key: str) -> ModuleName | None:
    is_name = isinstance(namespace, str) and is_namespace(namespace) and is_module_key(key)
    return ModuleName(namespace, key) if is_name else None


def _ask(session: Session, name: ModuleName | None, *, holding: bool) -> Answer | Flight:
    if session.resolver is None:
        return Answer(False, session.reason or "no-cache-dir")
    return Answer(False, "bad-name") if name is None else session.resolver.resolve(name, holding=holding)
