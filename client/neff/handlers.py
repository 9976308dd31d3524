"""What this process's own signal handlers raise: they run inside whatever is running, and it is not ours to catch."""

from __future__ import annotations

import functools
import signal
import traceback
from types import CodeType


def is_of_handler(error: BaseException) -> bool:
    """Whether one of the signal handlers that are set now raised `error`, or called what did."""
    codes = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))


def _code_of(handler: object) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    if callable(handler) and not hasattr(handler, "__code__"):
        handler = type(handler).__call__
    code = getattr(handler, "__code__", None)
    return code if isinstance(code, CodeType) else None
