"""What this process's own signal handlers raise: they run inside whatever is running, and it is not ours to catch."""

from __future__ import annotations

import functools
import signal
from collections.abc import Iterator
from types import CodeType

from neff.errors import HandlerError


def pass_on(error: Exception) -> None:
    """Raise HandlerError where `error`, which the caller is about to deal with, is none of its own."""
    # What is raised by the very lines that caught it has no frame below them.
    if error.__traceback__ is not None and error.__traceback__.tb_next is not None and is_of_handler(error):
        raise HandlerError(error) from None


def is_of_handler(error: BaseException) -> bool:
    """Whether one of the signal handlers that are set now raised `error`, or called what did."""
    codes = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    return any(code in codes for code in _codes_of(error))


def _codes_of(error: BaseException) -> Iterator[CodeType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_code
        trace = trace.tb_next


def _code_of(handler: object) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    if callable(handler) and not hasattr(handler, "__code__"):
        handler = type(handler).__call__
    code = getattr(handler, "__code__", None)
    return code if isinstance(code, CodeType) else None
