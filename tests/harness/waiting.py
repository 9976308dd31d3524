"""Waiting for what other processes do: bounded, and loud when it does not come."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Until a remote has a run's manifest: a look at it that was slow is taken again after 30 s.
TOLD_S = 45.0
_LOOK_EVERY_S = 0.02


def eventually(look: Callable[[], T], what: str, timeout_s: float = 20.0) -> T:
    """The first true value of `look`; raises AssertionError naming `what` if it does not come in `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what} (last seen: {seen!r})")
        time.sleep(_LOOK_EVERY_S)
