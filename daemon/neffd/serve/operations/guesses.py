"""`prefetch` without names: what a run is going to need, or what remotes hold of a compiler version."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from neff.keys import ModuleName, is_namespace
from neff.protocol import Message
from neffd.fetch.flight import Answer, Flight
from neffd.limits import PREFETCHES, Limits, Share
from neffd.runs import plans
from neffd.runs.budget import Spending
from neffd.runs.identity import Identity
from neffd.runs.plans import Expected
from neffd.serve.following import answer_with, finish, progress
from neffd.serve.operations.runs import identity_in
from neffd.serve.session import BadRequest, Resolver, Session
from neffd.tasks import Tasks

_PARALLEL = 32
_PREFIX = "neuronxcc-"
_ALIVE_S = 1.0


class Guesser(Protocol):
    """Who knows what is going to be needed."""

    tasks: Tasks
    limits: Limits

    def expected(self, identity: Identity) -> Awaitable[Expected]:
        """What a run is going to need."""

    def is_of(self, session: Session, run_key: str) -> bool:
        """Whether a client belongs to a run of this key."""

    def listed(self, namespace: str) -> Awaitable[tuple[list[ModuleName], list[str]]]:
        """What remotes hold of a compiler version, and which of them could not be asked, or not to the end."""

    def resolver_for(self, name: ModuleName) -> Resolver | None:
        """Where a name without a cache directory is fetched to."""


def prefetch_guessed(guesser: Guesser, session: Session, number: int, message: Message) -> None:
    """Serve a `prefetch` that holds `run` or `compiler`; raises BadRequest."""
    most_bytes = message.get("max_bytes")
    if most_bytes is not None and (type(most_bytes) is not int or most_bytes < 0):
        raise BadRequest("bad-request", "max_bytes must be a number of bytes")
    is_awaited, limits = bool(message.get("wait")), guesser.limits
    if "run" in message:
        identity = identity_in(message)
        if not is_awaited and guesser.is_of(session, identity.run_key):
            most_bytes = 0  # it is brought already: the greeting named the run; within its budget, and accounted for
        wanted: Callable[[], Awaitable[Expected]] = functools.partial(guesser.expected, identity)
        share = limits.prefetches
    else:
        wanted, share = _by_compiler(guesser, message), limits.compilers
    bringing = _Bringing(guesser, session, number, most_bytes, share, is_awaited=is_awaited)
    session.start(number, bringing.begin(wanted), "prefetch")


def _by_compiler(guesser: Guesser, message: Message) -> Callable[[], Awaitable[Expected]]:
    text = message.get("compiler")
    namespace = text if isinstance(text, str) and text.startswith(_PREFIX) else f"{_PREFIX}{text}"
    if not is_namespace(namespace):
        raise BadRequest("bad-request", "compiler must be a version such as 2.20.9961.0+0acef03a")

    async def listed() -> Expected:
        names, away = await guesser.listed(namespace)
        modules = await asyncio.to_thread(lambda: {name: plans.nothing_known(name) for name in names})
        return Expected(modules, plans.SAME_KEY, away=tuple(away))

    return listed


def _told(expected: Expected) -> Message:
    return {
        "modules": len(expected.modules),
        "sure": expected.sure,
        "from": list(expected.sources),
        "away": list(expected.away),
    }


class _Bringing:
    """One request under way; a client that does not wait is told no more than what there is.

    Args:
        share: of which its user has a part until all is there.
    """

    def __init__(
        self, guesser: Guesser, session: Session, number: int, most_bytes: int | None, share: Share, *, is_awaited: bool
    ) -> None:
        self._guesser = guesser
        self._session = session
        self._resolver = session.resolver
        self._number = number
        self._spending = Spending(most_bytes)
        self._share = share
        self._is_awaited = is_awaited

    async def begin(self, wanted: Callable[[], Awaitable[Expected]]) -> None:
        """Say what there is, and bring it: for somebody who waits, or behind."""
        began_at, uid, limits = time.perf_counter(), self._session.uid, self._guesser.limits
        if not limits.may_guess(uid) or not limits.take(self._share, uid, PREFETCHES):
            return self._session.error(self._number, "too-many", "this user has had too much brought ahead lately")
        is_over = True
        try:
            expected = await wanted()
            self._session.reply(self._number, plan=_told(expected))
            if self._is_awaited:
                await self._bring(expected)
            else:
                self._guesser.tasks.start(self._bring_behind(expected, uid), name=f"prefetch-{id(self)}")
                is_over = False
        finally:
            if is_over:
                limits.give_back(self._share, uid)
        finish(self._session, self._number, began_at)
        return None

    async def _bring_behind(self, expected: Expected, uid: int) -> None:
        try:
            await self._bring(expected)
        finally:
            self._guesser.limits.give_back(self._share, uid)

    async def _bring(self, expected: Expected) -> None:
        """In order, a part at a time."""
        flights: dict[asyncio.Future[Answer], Flight] = {}
        for number, (name, module) in enumerate(expected.modules.items()):
            while len(flights) >= _PARALLEL or (flights and not self._spending.fits(module.size_bytes)):
                await self._land(flights)
            if self._spending.is_over(module.size_bytes):
                break
            answer = self._resolve(name)
            if isinstance(answer, Flight):
                flights[answer.outcome] = answer
                self._spending.begun(answer.outcome, module.size_bytes)
            else:
                self._tell(name, answer)
            if number % _PARALLEL == 0:
                await asyncio.sleep(0)  # there may be thousands, and all of them here
        while flights:
            await self._land(flights)

    def _resolve(self, name: ModuleName) -> Answer | Flight:
        resolver = self._resolver or self._guesser.resolver_for(name)
        return resolver.resolve(name, urgent=False) if resolver is not None else Answer(False, "no-cache-dir")

    async def _land(self, flights: dict[asyncio.Future[Answer], Flight]) -> None:
        landed, _ = await asyncio.wait(flights, timeout=_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
        for outcome in landed:
            flight = flights.pop(outcome)
            self._spending.landed(outcome, flight.own_bytes)
            self._tell(flight.name, outcome.result())
        if not landed and self._is_awaited:
            flight = next(iter(flights.values()))
            self._session.reply(self._number, name=str(flight.name), **progress(flight))

    def _tell(self, name: ModuleName, answer: Answer) -> None:
        if self._is_awaited:
            answer_with(self._session, self._number, {"name": str(name)}, answer)
