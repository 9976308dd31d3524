"""Threads: as many after a minute as after months.

Python's own pool begins a thread whenever all are busy, and ends none: it would grow for hours towards its busiest
moment, and hide a leak.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def whole_pool(count: int, name: str) -> ThreadPoolExecutor:
    """A pool of `count` threads, named `name` and a number; of fewer where the system gives no more."""
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    is_whole = threading.Event()
    with contextlib.suppress(RuntimeError):  # no thread left: it grows when there are some again
        for _ in range(count):
            pool.submit(is_whole.wait)
    is_whole.set()
    return pool


def begun(work: Callable[..., T], *args: object) -> Callable[[], T]:
    """Begin `work` on a thread of its own; returns what waits for its end, and returns or raises as it does."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="neffd-begun")
    outcome = pool.submit(work, *args)
    pool.shutdown(wait=False)
    return outcome.result
