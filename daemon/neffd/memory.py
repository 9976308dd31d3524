"""The C library's heaps, and Python's names, kept so that what the process holds says what it uses.

Left alone, glibc gives nearly each thread a heap, and none of them gives back what lies between two things in use: a
busy minute would be held for days, and growth towards it hides a leak.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import sys
from concurrent.futures import Executor

# glibc's malloc.h.
_M_ARENA_MAX = -8
_EVERY_S = 60.0
# More than the table of interned names has room for beside those of the daemon's own modules.
_NAMES = 25_000


def share_one_heap() -> None:
    """Let all threads that begin from now on share one heap; without effect where the C library is not glibc."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def make_room_for_names() -> None:
    """Have Python's table of interned names grow now by the megabyte that it grows by within hours, at one blow.

    Each new part of a path leaves a mark in it. Without effect in Python 3.12, where the names would stay.
    """
    if sys.version_info[:2] != (3, 12):
        for number in range(_NAMES):
            sys.intern(f"neffd {number}")


async def keep_level(workers: Executor) -> None:
    """Make room for names once; give whole pages that nobody uses back to the system now and then, until cancelled."""
    in_worker = functools.partial(asyncio.get_running_loop().run_in_executor, workers)
    await asyncio.sleep(_EVERY_S)  # all that the daemon needs is loaded by then
    await in_worker(make_room_for_names)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        await in_worker(trim, 0)
        await asyncio.sleep(_EVERY_S)
