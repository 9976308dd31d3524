"""Tell a client how the keys that it asked for come along, until each has its final answer."""

from __future__ import annotations

import time
from collections.abc import Sequence

from neff import protocol
from neff.keys import ModuleName
from neff.protocol import Message
from neffd.fetch.flight import Answer, Flight
from neffd.serve.session import Session
from neffd.tasks import Wake

_PROGRESS_EVERY_S = 0.5


async def follow(
    session: Session,
    number: int,
    label: str,
    flights: dict[str, Flight],
    began_at: float,
    held: Sequence[Flight] = (),
) -> None:
    """Report flights, named by the field `label`, until all have landed; of those in `held` the asker has the lock."""
    landed, some_landed = list[str](), Wake()
    for flight in held:
        flight.holders.add(id(session))

    def has_landed(text: str) -> None:
        landed.append(text)
        some_landed.set()

    for text, flight in flights.items():
        flight.outcome.add_done_callback(lambda _, text=text: has_landed(text))  # type: ignore[misc]
    try:
        report_at = time.monotonic() + _PROGRESS_EVERY_S
        while flights:
            await some_landed.wait(report_at - time.monotonic())
            while landed:
                text = landed.pop(0)
                flight = flights.pop(text)
                answer_with(session, number, {label: text}, flight.outcome.result(), flight.name)
            if time.monotonic() >= report_at:
                report_at = time.monotonic() + _PROGRESS_EVERY_S
                for text, flight in flights.items():
                    if flight.outcome.done():
                        continue
                    if flight.found:
                        session.reply(number, **{label: text}, **progress(flight))
                    elif label == "key":  # a trainer, who wants to know that we live
                        session.reply(number, **{label: text}, state="asking")
        finish(session, number, began_at)
    finally:
        for flight in held:
            flight.holders.discard(id(session))


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
