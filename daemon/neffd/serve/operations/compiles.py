"""`holding`, `released`, `wait`: trainers say which locks they have made, and wait for those of others."""

from __future__ import annotations

import asyncio
from typing import Any

from neff.keys import LockId, ModuleName, is_module_key, is_namespace
from neff.protocol import Message
from neffd.compiles.board import Place, TooManyWaiters
from neffd.compiles.keeper import Keeper
from neffd.serve.session import BadRequest, Operation, Session

_HEARTBEAT_S = 0.5
_LARGEST = 2**64


def of_keeper(keeper: Keeper, *, waits: bool) -> dict[str, Operation]:
    """The operations; without `waits` nobody is offered to wait."""
    told: dict[str, Operation] = {"holding": Holding(keeper), "released": Released(keeper)}
    return told | {"wait": Wait(keeper)} if waits else told


class Holding:
    """A trainer has made this lock."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def __call__(self, session: Session, number: int, message: Message) -> None:
        place, lock = _place(session, message), _lock(message)
        if place is not None:
            self._keeper.took(
                place,
                lock,
                pid=session.pid,
                uid=session.uid,
                connection=id(session),
                program=session.program,
                at_s=_at_s(message),
            )
            session.on_close(lambda: self._keeper.disconnected(id(session)), key="holding")
        session.reply(number, done=True)


class Released:
    """That lock is gone."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def __call__(self, session: Session, number: int, message: Message) -> None:
        place, lock = _place(session, message), _lock(message)
        if place is not None:
            self._keeper.released(place, lock)
        session.reply(number, done=True)


class Wait:
    """Who has the lock of this entry, told until it is gone."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def __call__(self, session: Session, number: int, message: Message) -> None:
        place = _place(session, message)
        if place is None:
            session.reply(number, state="refused", reason=session.reason or "no-cache-dir", done=True)
            return
        session.start(number, self._wait(session, number, place), "wait")

    async def _wait(self, session: Session, number: int, place: Place) -> None:
        woken = asyncio.Event()
        try:
            waiter = self._keeper.wait(place, session.uid, woken.set)
        except TooManyWaiters:
            session.metrics.waits.labels("refused").inc()
            session.reply(number, state="refused", reason="too-many-waiters", done=True)
            return
        end = "left"
        try:
            while (state := self._keeper.look(place)) is None:
                session.reply(number, state="compiling", **self._keeper.facts(place))
                heartbeat = asyncio.get_running_loop().call_later(_HEARTBEAT_S, woken.set)
                try:
                    await woken.wait()
                finally:
                    heartbeat.cancel()
                woken.clear()
            end = state
        finally:
            self._keeper.leave(waiter)
            session.metrics.waits.labels(end).inc()
        session.reply(number, state=end, done=True)


def _place(session: Session, message: Message) -> Place | None:
    """The entry that is meant; None where its cache directory is none of ours. Raises BadRequest."""
    namespace, key = message.get("namespace"), message.get("key")
    if not (isinstance(namespace, str) and is_namespace(namespace) and isinstance(key, str) and is_module_key(key)):
        raise BadRequest("bad-request", "namespace and key must name a module")
    return None if session.root is None else Place(session.root, ModuleName(namespace, key))


def _lock(message: Message) -> LockId:
    inode, ctime_ns = message.get("inode"), message.get("ctime_ns")
    if not (_is_number(inode) and _is_number(ctime_ns)):
        raise BadRequest("bad-request", "inode and ctime_ns must be numbers")
    return LockId(inode, ctime_ns)  # type: ignore[arg-type]


def _at_s(message: Message) -> float | None:
    at_ns = message.get("at_ns")
    return at_ns / 1e9 if isinstance(at_ns, int) and _is_number(at_ns) else None


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST
