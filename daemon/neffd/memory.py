"""The C library's heaps, kept so that what the process holds says what it uses.

Left alone, glibc gives nearly each thread a heap, and none of them gives back what lies between two things in use: a
busy minute would be held for days, and growth towards it hides a leak.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
from concurrent.futures import Executor

# glibc's malloc.h.
_M_ARENA_MAX = -8
_EVERY_S = 60.0


def share_one_heap() -> None:
    """Let all threads that begin from now on share one heap; without effect where the C library is not glibc."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


async def give_back(workers: Executor) -> None:
    """Give whole pages that nobody uses back to the system now and then, until cancelled."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return
    while True:
        await asyncio.sleep(_EVERY_S)
        await asyncio.get_running_loop().run_in_executor(workers, trim, 0)
