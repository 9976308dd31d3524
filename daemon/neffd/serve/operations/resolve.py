"""`resolve`: can these keys be had? What is known is answered at once, only the rest needs a task."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from neff.keys import LockId, ModuleName, is_module_key, is_namespace
from neff.protocol import Message
from neffd.compiles import lockfile
from neffd.fetch.flight import Answer, Flight
from neffd.layouts import xla
from neffd.serve.fields import strings
from neffd.serve.following import answer_with, finish, follow
from neffd.serve.session import Session


def resolve(session: Session, number: int, message: Message) -> None:
    """The operation."""
    began_at = time.perf_counter()
    namespace, module_keys = message.get("namespace"), strings(message, "keys")
    holding = set(strings(message, "holding"))
    flights: dict[str, Flight] = {}
    held: dict[str, LockId] = {}
    for key in module_keys:
        name = _name(namespace, key)
        lock = _lock_of(session, name) if key in holding else None
        answer = _ask(session, name, lock)
        if not isinstance(answer, Flight):
            answer_with(session, number, {"key": key}, answer, name)
            continue
        flights[key] = answer
        if lock is not None:
            held[key] = lock
    if flights:
        session.start(number, follow(session, number, "key", flights, began_at, held), "resolve")
    else:
        finish(session, number, began_at)


def _name(namespace: Any, key: str) -> ModuleName | None:
    is_name = isinstance(namespace, str) and is_namespace(namespace) and is_module_key(key)
    return ModuleName(namespace, key) if is_name else None


def _lock_of(session: Session, name: ModuleName | None) -> LockId | None:
    """The lock that a client says it has made, if that can be: what it keeps out must not get in for anybody else."""
    if session.root is None or name is None:
        return None
    return lockfile.made_by(Path(session.root, *name, xla.LOCK), session.uid)


def _ask(session: Session, name: ModuleName | None, holding: LockId | None) -> Answer | Flight:
    if session.resolver is None:
        return Answer(False, session.reason or "no-cache-dir")
    return Answer(False, "bad-name") if name is None else session.resolver.resolve(name, holding=holding)
