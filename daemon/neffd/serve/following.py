"""Tell a client how the keys that it asked for come along, until each has its final answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType

from neff import protocol
from neff.keys import LockId, ModuleName
from neff.protocol import Message
from neffd.fetch.flight import Answer, Flight
from neffd.fetch.pace import is_lost
from neffd.serve.session import Session
from neffd.tasks import Wake

_PROGRESS_EVERY_S = 0.5
# Said to a trainer; the fetch goes on behind, for whoever comes later.
TOO_SLOW = Answer(False, "slower-than-compiling")
_NONE_HELD: Mapping[str, LockId] = MappingProxyType({})


async def follow(
    session: Session,
    number: int,
    label: str,
    flights: dict[str, Flight],
    began_at: float,
    held: Mapping[str, LockId] = _NONE_HELD,
) -> None:
    """Report flights, named by the field `label`, until all have landed; of those in `held` the asker has the lock."""
    landed, some_landed = list[str](), Wake()
    holding = [flights[text] for text in held]
    for text, lock in held.items():
        flights[text].holders[id(session)] = lock

    def has_landed(text: str) -> None:
        landed.append(text)
        some_landed.set()

    for text, flight in flights.items():
        flight.outcome.add_done_callback(lambda _, text=text: has_landed(text))  # type: ignore[misc]
    try:
        report_at = time.monotonic() + _PROGRESS_EVERY_S
        while flights:
            await some_landed.wait(report_at - time.monotonic())
            with session.together():
                while landed:
                    if (text := landed.pop(0)) in flights:
                        flight = flights.pop(text)
                        answer_with(session, number, {label: text}, flight.outcome.result(), flight.name)
                if time.monotonic() >= report_at:
                    report_at = time.monotonic() + _PROGRESS_EVERY_S
                    _report(session, number, label, flights, time.perf_counter() - began_at)
        finish(session, number, began_at)
    finally:
        for flight in holding:
            flight.holders.pop(id(session), None)


def _report(session: Session, number: int, label: str, flights: dict[str, Flight], waited_s: float) -> None:
    """How each comes along; what had better be compiled leaves `flights`."""
    is_trainer = label == "key"
    for text, flight in list(flights.items()):
        if flight.outcome.done():
            continue
        if is_trainer and is_lost(waited_s, flight.left_s, flight.give_up_s):
            del flights[text]
            flight.holders.pop(id(session), None)  # from now on it works on the entry itself
            answer_with(session, number, {label: text}, TOO_SLOW, flight.name)
        elif flight.found:
            session.reply(number, **{label: text}, **progress(flight))
        elif is_trainer:  # who wants to know that we live
            session.reply(number, **{label: text}, state="asking")


def answer_with(session: Session, number: int, what: Message, answer: Answer, name: ModuleName | None = None) -> None:
    """The final answer to one key; `name` is the module's where the key is that of one."""
    if name is not None:
        answer = session.tell(session, name, answer)
    state = protocol.READY if answer.ready else protocol.ABSENT
    detail: Message = {"source": answer.source} if answer.ready else {"reason": answer.reason}
    if answer.compile_s is not None:
        detail["compile_s"] = answer.compile_s
    if answer.text:
        detail["text"] = answer.text
    session.metrics.questions.labels(state, answer.reason).inc()
    session.reply(number, **what, state=state, **detail)


def finish(session: Session, number: int, began_at: float) -> None:
    """All keys of a request have their answers."""
    session.metrics.answer_s.observe(time.perf_counter() - began_at)
    session.reply(number, done=True)


def progress(flight: Flight) -> Message:
    """What is under way for one key."""
    return {
        "state": protocol.FETCHING,
        "done_bytes": flight.done_bytes,
        "total_bytes": flight.queued_bytes + flight.total_bytes,
        "give_up_s": flight.give_up_s,
    }
