"""Locks whose maker is gone: removed with proof, reported without.

A process that names the module in its arguments is proof of life, also where the maker itself is gone: a compiler
that goes on after its trainer was killed. Its lock stays until it has ended too.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple, TypeVar

from neff.keys import LockId
from neffd.compiles import lockfile, processes
from neffd.compiles.board import Place
from neffd.compiles.lockfile import Removal
from neffd.metrics import Metrics
from neffd.serve.status import Problems
from neffd.tasks import Tasks

log = logging.getLogger(__name__)
_T = TypeVar("_T")

STALE_LOCK = "stale-lock"
_LOOK_EVERY_S = 0.5
# A lock of an unknown maker is worth a word after this long, or this many times its usual compile time.
_OLD_S = 600.0
_OLD_TIMES = 3.0
_SCAN_EVERY_S = 60.0
# Each try looks at all processes of the host, and there may be a lock for each rank of a job.
_REFUSED_FOR_S = 60.0

# Lock file, which one, and how long its compile usually takes.
Suspect = tuple[Path, LockId, float | None]


class _Report(NamedTuple):
    """`candidates` are the processes that were named; None where the maker is known to be gone."""

    command: str
    candidates: frozenset[int] | None

    @property
    def is_proven(self) -> bool:
        return self.candidates is None


class StaleLocks:
    """Clears and reports.

    Args:
        problems: where to report, by cache directory.
        clears: whether a proven stale lock is removed, or only reported.
        on_removed: told of every removal: place, and the proof.
        clock: monotonic seconds.

    Attributes:
        on_gone: called with a place and the lock that was found gone there, or was removed.
    """

    def __init__(
        self,
        problems: Mapping[str, Problems],
        tasks: Tasks,
        metrics: Metrics,
        workers: Executor,
        *,
        clears: bool,
        clock: Callable[[], float],
        on_removed: Callable[[Place, str], None] = lambda place, proof: None,
    ) -> None:
        self._problems = problems
        self._tasks = tasks
        self._metrics = metrics
        self._workers = workers
        self._clears = clears
        self._on_removed = on_removed
        self._clock = clock
        self._clearing: set[Place] = set()
        self._at_work: dict[Place, list[int]] = {}
        self._reported: dict[Place, _Report] = {}
        self._seen: dict[Place, tuple[LockId, float]] = {}
        self._refused: dict[Place, tuple[LockId, float]] = {}  # and when
        self._asked: set[str] = set()  # module keys for the next look at all processes
        self._looking = asyncio.Lock()
        self._next_scan_at = clock()
        self.on_gone: Callable[[Place, LockId], None] = lambda place, lock: None

    def clear(self, place: Place, path: Path, lock: LockId, proof: str) -> None:
        """Remove a lock as soon as no process names its module any more; `proof` says why it is stale."""
        if place in self._clearing or self._was_refused(place, lock):
            return
        if not self._clears:
            self._note(place, path, f"{proof}, and locks.clear_stale is off")
            return
        self._clearing.add(place)
        self._tasks.start(self._clear(place, path, lock, proof), name=f"clear-{place.name.key}")

    def at_work(self, place: Place) -> list[int]:
        """The processes for which a stale lock still has to stay."""
        return self._at_work.get(place, [])

    def is_abandoned(self, place: Place) -> bool:
        """Whether the lock of an unknown maker is old, and no process that can be seen names its module."""
        reported = self._reported.get(place)
        return reported is not None and reported.candidates == frozenset()

    def forget(self, place: Place) -> None:
        """The lock is gone, or its maker lives: there is nothing to report any more."""
        self._refused.pop(place, None)
        reported = self._reported.pop(place, None)
        if reported is not None:
            self._problems[place.root].over(STALE_LOCK, reported.command)

    async def report(self, suspects: Mapping[Place, Suspect]) -> None:
        """Report those among the locks of unknown makers that are too old, with the processes to look at.

        How old is counted from when we first saw them: a file's time says nothing where the wall clock was set since.
        """
        now = self._clock()
        seen, self._seen = self._seen, {}
        for place, (_, lock, _) in suspects.items():
            is_same = place in seen and seen[place][0] == lock
            self._seen[place] = seen[place] if is_same else (lock, now)
        for place in [place for place, said in self._reported.items() if not said.is_proven and place not in suspects]:
            self.forget(place)
        ages_s = {place: now - since for place, (_, since) in self._seen.items()}
        old = {place: suspect for place, suspect in suspects.items() if _is_old(ages_s[place], suspect)}
        if not old or (now < self._next_scan_at and set(old) <= set(self._reported)):
            return
        self._next_scan_at = now + _SCAN_EVERY_S
        try:
            named = await self._in_worker(processes.naming, {place.name.key for place in old})
        except OSError as error:
            log.warning("who works on what is locked cannot be seen: %s", error)
            return
        for place, (path, _, usually_s) in old.items():
            candidates = named[place.name.key]
            said = self._reported.get(place)
            if said is not None and said.candidates != frozenset(candidates):
                self.forget(place)  # so that the log tells of it anew
            self._note(place, path, _doubt(ages_s[place], usually_s, candidates), frozenset(candidates))

    async def _clear(self, place: Place, path: Path, lock: LockId, proof: str) -> None:
        try:
            while pids := await self._naming(place.name.key):
                self._at_work[place] = sorted(pids)
                log.info("%s: %s, but these processes still work on it: %s", place.name, proof, sorted(pids))
                while await self._in_worker(_any_names, pids, place.name.key):  # noqa: ASYNC110, nobody tells us
                    await asyncio.sleep(_LOOK_EVERY_S)
            removal = await self._in_worker(lockfile.remove, path, lock)
        except OSError as error:
            log.warning("%s: %s, but who works on it cannot be seen: %s", place.name, proof, error)
            return  # whoever looks after all locks tries again
        finally:
            self._clearing.discard(place)
            self._at_work.pop(place, None)
        if removal is Removal.REFUSED:
            self._refused[place] = lock, self._clock()
            self._note(place, path, f"{proof}, and neffd may not remove it")
            return
        if removal is Removal.REMOVED:
            log.warning("removed the lock of %s: %s", place.name, proof)
            self._metrics.stale_locks.inc()
            self._on_removed(place, proof)
        self.on_gone(place, lock)

    async def _naming(self, key: str) -> dict[int, str]:
        """See `processes.naming`; those who ask at once, as when a job was killed, share one look."""
        if not self._asked:
            self._next_look = self._tasks.start(self._look(), name="look-at-processes", watched=True)
        self._asked.add(key)
        return (await asyncio.shield(self._next_look))[key]

    async def _look(self) -> dict[str, dict[int, str]]:
        async with self._looking:  # who asks meanwhile has the next one
            asked, self._asked = self._asked, set()
            return await self._in_worker(processes.naming, asked)

    def _was_refused(self, place: Place, lock: LockId) -> bool:
        """Whether it could not be removed a short while ago."""
        refused, at = self._refused.get(place, (None, 0.0))
        return refused == lock and self._clock() < at + _REFUSED_FOR_S

    def _note(self, place: Place, path: Path, detail: str, candidates: frozenset[int] | None = None) -> None:
        """Without candidates it is proven."""
        command = f"rm {shlex.quote(str(path))}"
        self._reported[place] = _Report(command, candidates)
        self._problems[place.root].note(STALE_LOCK, f"{place.name} is locked: {detail}", command)

    async def _in_worker(self, work: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work, *args)


def _any_names(pids: Iterable[int], key: str) -> bool:
    """Whether one of them still names a module. Blocking: the arguments of one that hangs can be long in coming."""
    return any(processes.names(pid, key) for pid in pids)


def _is_old(age_s: float, suspect: Suspect) -> bool:
    _, _, usually_s = suspect
    return age_s > max(_OLD_S, _OLD_TIMES * (usually_s or 0.0))


def _doubt(age_s: float, usually_s: float | None, candidates: Mapping[int, str]) -> str:
    usual = f", which usually takes {usually_s:.0f} s" if usually_s is not None else ""
    shown = "; ".join(f"{pid} ({text})" for pid, text in sorted(candidates.items())[:3])
    who = f"these processes name it: {shown}" if candidates else "no process that can be seen on this host names it"
    return f"for at least {age_s / 60:.0f} min{usual}; {who}"
