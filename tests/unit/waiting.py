"""Waiting, on the event loop, for what other tasks and threads do: bounded, and loud when it does not come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(look: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    """Return once `look` is true; raises AssertionError naming `what` if that does not come in `timeout_s`."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not look():
        assert asyncio.get_running_loop().time() < deadline, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(0.01)
