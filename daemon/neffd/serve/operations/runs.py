"""`used`, `run-ended`, `plan`: what a run used, that it is over, and what it is going to need."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from neff import protocol
from neff.keys import ModuleName, is_module_key, is_namespace
from neff.protocol import Message
from neffd.limits import Limits
from neffd.runs.identity import Identity, of_message
from neffd.serve.session import BadRequest, Operation, Session

log = logging.getLogger(__name__)


class Runs(Protocol):
    """Who knows the runs: `neffd.runs.jobs.Jobs`."""

    limits: Limits

    def used(self, session: Any, names: Sequence[ModuleName]) -> None: ...

    def run_ended(self, session: Any) -> Awaitable[Message]: ...

    def plan(self, identity: Identity, root: str | None) -> Awaitable[Message]: ...


def of_runs(runs: Runs) -> dict[str, Operation]:
    """The operations, by name."""
    return {"used": Used(runs), "run-ended": RunEnded(runs), "plan": Plan(runs)}


class Used:
    """Modules that a process found in its cache directory."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def __call__(self, session: Session, number: int, message: Message) -> None:
        self._runs.used(session, _modules(message.get("modules")))
        session.reply(number, done=True)


class RunEnded:
    """The run of the greeting is over."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def __call__(self, session: Session, number: int, message: Message) -> None:
        session.start(number, self._end(session, number), "run-ended")

    async def _end(self, session: Session, number: int) -> None:
        summary = await self._runs.run_ended(session)
        names = summary["names"]
        session.reply(number, run={**summary, "names": names[: protocol.MAX_KEYS_PER_REQUEST]}, done=True)


class Plan:
    """Will it compile?"""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def __call__(self, session: Session, number: int, message: Message) -> None:
        session.start(number, self._plan(session, number, identity_in(message)), "plan")

    async def _plan(self, session: Session, number: int, identity: Identity) -> None:
        if not self._runs.limits.may_guess(session.uid):
            return session.error(number, "too-many", "this user has asked too much of that kind lately")
        session.reply(number, plan=await self._runs.plan(identity, session.root), done=True)
        return None


def identity_in(message: Message) -> Identity:
    """The run that a request is about; raises BadRequest."""
    identity = of_message(message.get("run"))
    if identity is None:
        raise BadRequest("bad-request", "run must hold a run key")
    return identity


def _modules(value: Any) -> list[ModuleName]:
    """Names in the order of first use; raises BadRequest."""
    if not isinstance(value, list) or len(value) > protocol.MAX_KEYS_PER_REQUEST:
        raise BadRequest("bad-request", f"modules must be a list of at most {protocol.MAX_KEYS_PER_REQUEST}")
    names = []
    for item in value:
        if not isinstance(item, list) or len(item) < 2 or not all(isinstance(part, str) for part in item[:2]):
            raise BadRequest("bad-request", "each of modules must begin with a namespace and a key")
        if is_namespace(item[0]) and is_module_key(item[1]):
            names.append(ModuleName(item[0], item[1]))
    return names
