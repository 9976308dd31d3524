"""Room in one cache directory: held within its limits in the background, reserved before a download.

Decisions are `eviction`'s, on what the collector last saw; removal is `removal`'s. Removing comes in strides, so that a
stop, or a download that needs room, never waits for all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import Executor
from typing import Any, TypeVar

from neff.keys import ModuleName
from neffd.config_sections import StoreConfig
from neffd.metrics import Metrics
from neffd.store.census import Census, Held
from neffd.store.eviction import Entry, Goal, Kept, Limits, Policy, Selection, Told, is_recent, select
from neffd.store.index import Evicted, Index
from neffd.store.removal import Removal, Remover
from neffd.store.root import CacheRoot, FileFacts, Inspection
from neffd.tasks import Wake

log = logging.getLogger(__name__)
_T = TypeVar("_T")

_LOOK_EVERY_S = 5.0
# With nothing that may go, choosing again at each look would mend nothing; what was only in use may go soon.
_MOST_LOOKS_WHILE_BLOCKED = 6
_STRIDE = 128
# From its mark's removal to its files': time for whoever saw the mark to open the NEFF.
GRACE_S = 2.0
_FREE_SHARE = 0.02
_MOST_FREE_BYTES = 2**30
NEARLY_FULL, OVER_LIMIT = "disk-nearly-full", "over-limit"


class DiskFull(Exception):
    """A download that would leave less space than is to stay free, even after eviction."""


def limits_of(config: StoreConfig, root: CacheRoot) -> Limits:
    """The configured limits; where none says what stays free, a small part of the file system."""
    min_free_bytes = config.min_free_bytes
    if min_free_bytes is None:
        facts = os.statvfs(root.path)
        min_free_bytes = min(int(facts.f_blocks * facts.f_frsize * _FREE_SHARE), _MOST_FREE_BYTES)
    high, low = config.high_water / 100, config.low_water / 100
    return Limits(config.max_bytes, config.max_entries, min_free_bytes, high, low)


def policy_of(config: StoreConfig) -> Policy:
    """The configured rules of what may go, and in which order."""
    return Policy(config.keep_used_s, config.evict_unshared, config.old_versions_first)


class Space:
    """Keeps one cache directory within its limits.

    Args:
        copies: how many remotes hold an entry, as (those that answer, those that are away), as far as is known; called
            on worker threads.
        confirmed: which of these entries a remote, asked just now, says it holds.
        is_settling: whether an entry is on its way into the journal.
        pinned: entries that a running or recent run uses.
        on_evicted: told of every entry that is gone.
        wall: seconds since the epoch, the clock of access times.
    """

    def __init__(
        self,
        root: CacheRoot,
        index: Index,
        metrics: Metrics,
        workers: Executor,
        *,
        limits: Limits,
        policy: Policy,
        copies: Callable[[ModuleName], tuple[int, int]],
        confirmed: Callable[[Collection[ModuleName]], Awaitable[Collection[ModuleName]]],
        is_settling: Callable[[ModuleName], bool],
        pinned: Callable[[], Collection[ModuleName]] = frozenset,
        on_evicted: Callable[[ModuleName], None] = lambda name: None,
        on_problem: Callable[[str, str, str], None] = lambda reason, detail, hint: None,
        on_healed: Callable[[str], None] = lambda reason: None,
        wall: Callable[[], float] = time.time,
        grace_s: float = GRACE_S,
    ) -> None:
        self._root = root
        self._index = index
        self._census = Census()
        self._removing: set[ModuleName] = set()
        self._metrics = metrics
        self._workers = workers
        self._limits = limits
        self._policy = policy
        self._copies = copies
        self._confirmed = confirmed
        self._is_settling = is_settling
        self._pinned = pinned
        self._on_evicted = on_evicted
        self._on_problem = on_problem
        self._on_healed = on_healed
        self._wall = wall
        self._grace_s = grace_s
        self._remover = Remover(root, index)
        self._one_at_a_time = asyncio.Lock()
        self._wake = Wake()
        self._reserved_bytes = 0
        self._free_bytes = 0
        self._asked_for: dict[ModuleName, float] = {}
        self._kept: Counter[Kept] = Counter()
        self._reason: str | None = None
        self._looks = 1  # until it is chosen again
        self._evicted_entries = self._evicted_bytes = 0
        self._sees_reads = True
        self._said = ""

    async def run(self) -> None:
        """Until cancelled: finish what an earlier life began, then look now and then and make room."""
        while True:
            try:
                async with self._one_at_a_time:
                    await self._finish(await self._in_worker(self._index.unfinished_evictions, self._root.path))
                while await self._stride():
                    pass
                await self._note_uses()
                self._said = ""
            except (OSError, sqlite3.Error) as error:  # said once: a directory may be away for days
                if str(error) != self._said:
                    log.warning("making room in %s: %s", self._root.path, error)
                self._said = str(error)
            await self._pause()

    async def _pause(self) -> None:
        """Until something may be there to remove, or what was in the way has gone otherwise."""
        looks = self._looks
        self._looks = min(2 * looks, _MOST_LOOKS_WHILE_BLOCKED) if self._reason else 1
        for _ in range(looks if self._reason else 1):
            if await self._wake.wait(_LOOK_EVERY_S):
                return
            with contextlib.suppress(OSError):
                if self._reason and not await self._goal():
                    return

    def saw(self, name: ModuleName, looks: Inspection) -> bool:
        """Note how an entry looks now; false for one that only looks so because it is being removed."""
        self._census.saw(name, looks)
        return name not in self._removing

    def scanned(self, names: Collection[ModuleName]) -> None:
        """A scan found these entries and no others."""
        self._census.keep_only(names)
        self._wake.set()

    def used(self, name: ModuleName) -> None:
        """Somebody asked for an entry that is here; written down with others, later."""
        self._asked_for[name] = self._wall()

    def room_bytes(self, pinned: Collection[ModuleName]) -> int | None:
        """How much more the directory may hold beside what is `pinned` and stays; None where nothing limits it."""
        most_bytes = self._limits.max_bytes
        if most_bytes is None:
            return None
        held = sum(facts.size_bytes for name in pinned if (facts := self._census.get(name)) is not None)
        return max(0, int(most_bytes * self._limits.low) - held)

    @contextlib.asynccontextmanager
    async def reserve(self, size_bytes: int) -> AsyncIterator[None]:
        """Keep `size_bytes` of the file system for a download while inside.

        Raises DiskFull where that would leave too little free, whatever is evicted, OSError and sqlite3.Error.
        """
        self._reserved_bytes += size_bytes
        try:
            if await self._lacks_room() and not await self._make_room():
                kept_mb = self._limits.min_free_bytes / 1e6
                raise DiskFull(f"{size_bytes / 1e6:.1f} MB would leave less than {kept_mb:.0f} MB free")
            yield
        finally:
            self._reserved_bytes -= size_bytes

    async def _make_room(self) -> bool:
        """Remove what is in the way; whether that was enough. Nothing goes in vain."""
        may_go_on = await self._could_hold()
        while may_go_on:
            may_go_on = await self._stride()
            if not await self._lacks_room():
                return True
        return not await self._lacks_room()  # another download may have given up

    async def _could_hold(self) -> bool:
        """Whether what is reserved would fit if all went that may: a download may be of any size, or lie about it."""
        lacking = Goal(self._limits.min_free_bytes + self._reserved_bytes - await self._in_worker(self._measure))
        held, pinned, told = dict(self._census.snapshot()), frozenset(self._pinned()), Told()
        while True:
            selection = await self._in_worker(self._select, held, lacking, {}, told.doubtful, pinned)
            if not selection.reaches_goal or await self._remotes_confirm(selection.remove, told):
                return selection.reaches_goal

    async def _lacks_room(self) -> bool:
        if not self._limits.min_free_bytes:
            return False
        return await self._in_worker(self._measure) - self._reserved_bytes < self._limits.min_free_bytes

    def _measure(self) -> int:
        facts = os.statvfs(self._root.path)
        self._sees_reads = not facts.f_flag & os.ST_NOATIME
        self._free_bytes = facts.f_bavail * facts.f_frsize
        return self._free_bytes

    async def _stride(self) -> bool:
        """Remove some of what has to go; whether there is more, and it may go."""
        async with self._one_at_a_time:
            goal = await self._goal()
            selection = await self._remove(goal) if goal else None
            if selection is None or selection.reaches_goal:
                self._is_well()
            else:
                self._is_blocked(selection)
            self._show()
            return selection is not None and len(selection.remove) == _STRIDE

    async def _goal(self) -> Goal:
        free_bytes = await self._in_worker(self._measure)
        return self._limits.goal(self._census.size_bytes, len(self._census), free_bytes - self._reserved_bytes)

    async def _remove(self, goal: Goal) -> Selection:
        """Remove what the decision names.

        What turns out to be in use, or on no remote, stays, and another goes in its place.
        """
        held = dict(self._census.snapshot())
        stays: dict[ModuleName, Kept] = {}
        told = Told()
        pinned = frozenset(self._pinned())
        unmark = functools.partial(self._remover.unmark, is_recent=self._is_recent)
        gone: list[Evicted] = []
        removed: list[Entry] = []
        while True:
            selection = await self._in_worker(self._select, held, goal, stays, told.doubtful, pinned)
            chosen = selection.remove[: _STRIDE - len(removed)]
            if not await self._remotes_confirm(chosen, told):
                continue
            wanted = {entry.name: neff for entry in chosen if (neff := held[entry.name].neff) is not None}
            if not wanted:
                break
            if meanwhile := self._needed_meanwhile(wanted):
                stays |= meanwhile
                continue
            self._removing |= wanted.keys()
            unmarked, kept = await self._in_worker(unmark, wanted)
            self._removing -= kept.keys()
            stays |= kept
            gone += unmarked
            for entry in unmarked:
                del held[entry.name]
            removed += [entry for entry in chosen if entry.name not in kept]
            goal = Goal(goal.size_bytes - sum(entry.size_bytes for entry in unmarked), goal.entries - len(unmarked))
            if not kept or len(removed) >= _STRIDE:
                break
        if gone:
            await asyncio.sleep(self._grace_s)
            await self._finish(gone)
        return Selection(tuple(removed), selection.reaches_goal, selection.kept)

    async def _remotes_confirm(self, chosen: Collection[Entry], told: Told) -> bool:
        """Ask, once for each, whether remotes hold what they are believed to hold of `chosen`; whether all is well.

        What is known of them may be old, or no more than the name of a folder.
        """
        unasked = {entry.name for entry in chosen if entry.copies} - told.asked
        if unasked:
            told.asked |= unasked
            told.held.update(await self._confirmed(unasked))
        return unasked <= told.held

    def _needed_meanwhile(self, chosen: Collection[ModuleName]) -> dict[ModuleName, Kept]:
        """Those of `chosen` that somebody needs by now: a remote may have taken seconds to answer."""
        asked_for = [name for name in chosen if self._is_recent(self._asked_for.get(name, 0.0))]
        return dict.fromkeys(asked_for, Kept.RECENT) | dict.fromkeys(
            set(chosen).intersection(self._pinned()), Kept.PINNED
        )

    def _select(
        self,
        held: dict[ModuleName, Held],
        goal: Goal,
        stays: dict[ModuleName, Kept],
        doubtful: frozenset[ModuleName],
        pinned: frozenset[ModuleName],
    ) -> Selection:
        path = self._root.path
        compile_s, waiting, asked_for = (
            self._index.compile_seconds(path),
            self._index.waiting(path),
            self._index.uses(path) | self._asked_for,
        )

        def entry(name: ModuleName, facts: Held) -> Entry:
            copies, copies_away = self._copies(name) if facts.is_ready else (0, 0)
            if name in doubtful:  # still believed to be there: nobody could say
                copies, copies_away = 0, copies + copies_away
            return Entry(
                name,
                facts.size_bytes,
                max(facts.read_at, _made_at(facts.neff), asked_for.get(name, 0.0)),
                compile_s.get(name),
                copies,
                copies_away,
                is_ready=facts.is_ready,
                is_locked=facts.is_locked,
                is_waiting=name in waiting or self._is_settling(name),
                is_pinned=name in pinned,
                kept=stays.get(name),
            )

        return select([entry(name, facts) for name, facts in held.items()], goal, self._policy, self._wall())

    def _is_recent(self, read_at: float) -> bool:
        return is_recent(read_at, self._policy, self._wall())

    async def _finish(self, begun: Collection[Evicted]) -> None:
        gone = []
        self._removing = {entry.name for entry in begun}
        for entry in begun:
            outcome = await self._in_worker(self._remover.finish, entry)
            if outcome is not Removal.AGAIN:
                self._removing.discard(entry.name)
            if outcome is not Removal.REMOVED:
                continue
            log.info("evicted %s, %d bytes", entry.name, entry.size_bytes)
            gone.append(entry)
            self._census.drop(entry.name)
            self._asked_for.pop(entry.name, None)
            self._evicted_entries += 1
            self._evicted_bytes += entry.size_bytes
            self._metrics.evicted_entries.inc()
            self._metrics.evicted_bytes.inc(entry.size_bytes)
            self._on_evicted(entry.name)
        if gone:
            await self._in_worker(self._index.forget_evicted, self._root.path, gone)

    async def _note_uses(self) -> None:
        asked_for, self._asked_for = self._asked_for, {}
        if asked_for:
            try:
                await self._in_worker(self._index.note_uses, self._root.path, asked_for)
            except sqlite3.Error:
                self._asked_for = asked_for | self._asked_for
                raise

    def _is_well(self) -> None:
        self._kept, self._reason = Counter(), None
        self._on_healed(NEARLY_FULL)
        self._on_healed(OVER_LIMIT)

    def _is_blocked(self, selection: Selection) -> None:
        self._kept = selection.kept
        reserve = self._limits.min_free_bytes
        is_nearly_full = self._free_bytes - self._reserved_bytes < reserve
        self._reason, other = (NEARLY_FULL, OVER_LIMIT) if is_nearly_full else (OVER_LIMIT, NEARLY_FULL)
        self._on_healed(other)
        why = ", ".join(f"{count} {kept.value}" for kept, count in sorted(self._kept.items()))
        self._on_problem(self._reason, f"nothing more can be evicted: {why or 'the cache is empty'}", "")

    def _show(self) -> None:
        path = str(self._root.path)
        self._metrics.cache_bytes.labels(path).set(self._census.size_bytes)
        self._metrics.cache_entries.labels(path).set(len(self._census))
        self._metrics.cache_free_bytes.labels(path).set(self._free_bytes)
        for kept in Kept:
            self._metrics.not_evicted.labels(path, kept.value).set(self._kept[kept])

    def status(self) -> dict[str, Any]:
        """For the status document."""
        return {
            "bytes": self._census.size_bytes,
            "entries": len(self._census),
            "free_bytes": self._free_bytes,
            "max_bytes": self._limits.max_bytes,
            "max_entries": self._limits.max_entries,
            "min_free_bytes": self._limits.min_free_bytes,
            "evicted_entries": self._evicted_entries,
            "evicted_bytes": self._evicted_bytes,
            "last_use_from": "reads" if self._sees_reads else "questions",
            "reason": self._reason,
            "kept": {kept.value: count for kept, count in sorted(self._kept.items())},
        }

    async def _in_worker(self, work: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work, *args)


def _made_at(neff: FileFacts | None) -> float:
    return 0.0 if neff is None else neff.mtime_ns / 1e9
