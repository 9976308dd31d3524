"""neffd, but a part of it hangs as soon as it is ready: HANG=<part>[:<file>].

A part is the event-loop, database, workers, a scan, odd-jobs or a lookup.

The self-check has less patience with it: half a second until it is said, one and a half until the daemon ends, which
it does not where the hang is over as soon as that file is there. Without HANG it has as little with the event loop.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neffd import selfcheck, service
from neffd.main import main
from neffd.pulse import Limits
from neffd.store.root import CacheRoot

_SAID_S, _END_S = 0.5, 1.5
_LOOK_EVERY_S = 0.05


def wait(end: Path | None) -> None:
    """Until that file is there; for ever without one."""
    while end is None or not end.exists():
        time.sleep(_LOOK_EVERY_S)


def hang(what: str, end: Path | None, running: service.Service) -> None:
    """Make a part of the daemon hang, and say so."""
    print(what, "hangs", flush=True)
    shared = running._shared
    if what == "event-loop":
        wait(end)
    elif what == "database":
        shared.database._enqueue(lambda connection: wait(end))
    elif what == "scan":
        collector = running._roots[0].collector
        vars(collector._root)["namespaces"] = functools.partial(hang_once, collector._root, end)
        collector.scan_soon("asked")
    elif what == "workers":
        for _ in range(service._WORKERS):
            shared.workers.submit(wait, end)
    elif what == "odd-jobs":
        running._tasks.start(asyncio.to_thread(wait, end), name="hangs")
    elif what == "lookup":
        running._tasks.start(_look_up(), name="hangs")


async def _look_up() -> None:
    await asyncio.get_running_loop().getaddrinfo("somewhere.invalid", 443)


def hang_once(root: CacheRoot, end: Path | None) -> Iterator[str]:
    """A directory that is not answered for a while, then as ever."""
    vars(root).pop("namespaces")
    wait(end)
    return root.namespaces()


def arm(spec: str) -> None:
    """Hang as `spec` says, when all has started; nowhere where it is empty."""
    what, _, end = spec.partition(":")
    if what not in ("odd-jobs", "lookup"):  # which are looked after by nobody
        # Of an event loop that does not hang, a busy machine may keep the processor for a while.
        selfcheck.LIMITS[what or selfcheck.LOOP] = Limits(_SAID_S if what else _END_S, None if end else _END_S)
    selfcheck.LOOK_EVERY_S = _LOOK_EVERY_S
    selfcheck.SCAN_LIMIT_S = _SAID_S
    start_tasks = service.Service._start_tasks

    def start_and_hang(running: Any) -> None:
        start_tasks(running)
        asyncio.get_running_loop().call_later(0.1, hang, what, Path(end) if end else None, running)

    service.Service._start_tasks = start_and_hang  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    arm(os.environ["HANG"])
    sys.exit(main())
