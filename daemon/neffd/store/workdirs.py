"""Work folders that dead compiles left: the compiler's wrapper makes one for each compile and removes none.

Only folders below `<tmp>/<user>/neuroncc_compile_workdir` that are ours in every part: what another user could swap
while we look is never touched. Blocking, but for `run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path

from neffd.store import fsops

log = logging.getLogger(__name__)

TMP = Path("/tmp")
NAME = "neuroncc_compile_workdir"
_PROC = Path("/proc")
_EVERY_S = 6 * 3600.0


async def run(older_than_s: float, workers: Executor) -> None:
    """Clear left-overs now and every few hours, until cancelled."""
    while True:
        try:
            count = await asyncio.get_running_loop().run_in_executor(workers, clear, older_than_s)
            if count:
                log.info("removed %d work folders of compiles that ended", count)
        except OSError as error:
            log.warning("work folders of compiles that ended: %s", error)
        await asyncio.sleep(_EVERY_S)


def clear(older_than_s: float, tmp: Path = TMP, wall: Callable[[], float] = time.time) -> int:
    """Remove what is left over; returns how many folders went.

    Args:
        older_than_s: for how long nothing in a folder may have changed.
    """
    before = wall() - older_than_s
    old = [folder for folder in _ours(tmp) if _last_change(folder) < before]
    in_use = _places_in_use() if old else set[Path]()
    gone = 0
    for folder in old:
        if not any(place.is_relative_to(folder) for place in in_use):
            fsops.remove_tree(folder)
            gone += not folder.exists()
    return gone


def _ours(tmp: Path) -> Iterator[Path]:
    # No glob: it gives up at a dead mount below.
    for parent in [tmp / NAME, *(user / NAME for user in tmp.iterdir())]:
        above = [parent] if parent.parent == tmp else [parent.parent, parent]
        if all(_is_ours_alone(folder) for folder in above):
            yield from (folder for folder in parent.iterdir() if _is_ours_alone(folder))


def _is_ours_alone(folder: Path) -> bool:
    """Whether this is a folder of ours that nobody else may write to."""
    try:
        facts = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o022


def _last_change(folder: Path) -> float:
    """The latest change below `folder`, wall seconds; now where that cannot be told."""
    latest = 0.0
    try:
        for path in [folder, *folder.rglob("*")]:
            facts = path.lstat()
            latest = max(latest, facts.st_mtime, facts.st_ctime)
    except OSError:
        return float("inf")
    return latest


def _places_in_use() -> set[Path]:
    """Working directories and open files of all processes that we may look into, which those of our user are."""
    places: set[Path] = set()
    for process in _PROC.iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for link in [process / "cwd", *(process / "fd").iterdir()]:
                with contextlib.suppress(OSError):
                    places.add(link.readlink())
    return places
