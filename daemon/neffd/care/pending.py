"""Graphs that were extracted and not compiled yet: what a remote holds of them is fetched before anybody compiles.

The catalog's listings answer for all of them at once; a name that no remote holds costs a look into memory each time
that the listings may have changed, and never a question of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from neff.keys import ModuleName
from neffd.fetch.flight import READY_HERE, Answer, Flight
from neffd.layouts import xla
from neffd.remotes.base import RemoteUnavailable
from neffd.store.root import Inspection
from neffd.tasks import Tasks, Wake

log = logging.getLogger(__name__)

_PARALLEL = 8
# How often the listings in memory are compared with what waits.
_LOOK_EVERY_S = 2.0
# New graphs make us ask a remote whether it has changed, no more often than this.
_REFRESH_EVERY_S = 5.0
# One that could not be fetched is tried again after this long, or if it may be fetched at once, sooner.
_AGAIN_AFTER_S = 600.0
_AGAIN_SOON_S = 30.0
_PASSING = frozenset({"remote-unavailable", "locked", "disk", "stopping", "internal-error"})
# Nobody is about to compile what was extracted so long ago; whoever does after all asks for it.
_RECENT_S = 7 * 86_400.0
# More graphs than this wait for nothing but a full cache directory.
MAX_WAITING = 50_000


class Waiting:
    """Which graphs wait, and when each may be tried. A plain object with an injected clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._not_before: dict[ModuleName, float] = {}

    def __len__(self) -> int:
        return len(self._not_before)

    def __contains__(self, name: ModuleName) -> bool:
        return name in self._not_before

    def add(self, name: ModuleName) -> bool:
        """Note a graph; true if it is new."""
        if name in self._not_before or len(self._not_before) >= MAX_WAITING:
            return False
        self._not_before[name] = self._clock()
        return True

    def drop(self, name: ModuleName) -> None:
        """It is compiled, being compiled, or gone."""
        self._not_before.pop(name, None)

    def due(self, is_held: Callable[[ModuleName], bool]) -> list[ModuleName]:
        """Those that may be tried now and that some remote is known to hold."""
        now = self._clock()
        return [name for name, not_before in self._not_before.items() if not_before <= now and is_held(name)]

    def answered(self, name: ModuleName, answer: Answer) -> None:
        """What became of a try."""
        if answer.ready:
            self.drop(name)
        elif name in self._not_before:
            pause_s = _AGAIN_SOON_S if answer.reason in _PASSING else _AGAIN_AFTER_S
            self._not_before[name] = self._clock() + pause_s


class Holder(Protocol):
    """What is known of one remote: `neffd.catalog.catalog.Catalog`."""

    def knows(self, namespace: str, key: str) -> bool: ...

    def refresh(self, namespace: str) -> Awaitable[None]: ...


class PendingFetches:
    """Fetches what is pending below one cache directory and held by a remote.

    Args:
        catalogs: of all remotes, as they are now.
        fetch: starts the fetch of a module that nobody waits for yet.
    """

    def __init__(
        self,
        tasks: Tasks,
        *,
        catalogs: Callable[[], Sequence[Holder]],
        fetch: Callable[[ModuleName], Answer | Flight],
        note: Callable[..., None] = lambda name, what, **facts: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._tasks = tasks
        self._catalogs = catalogs
        self._fetch = fetch
        self._note = note
        self._clock = clock
        self._wall = wall
        self._waiting = Waiting(clock)
        self._new: set[str] = set()
        self._wake = Wake()
        self._slots = asyncio.Semaphore(_PARALLEL)
        self._under_way: set[ModuleName] = set()
        self._refreshed_at = -_REFRESH_EVERY_S

    def saw(self, name: ModuleName, looks: Inspection) -> None:
        """The collector has looked at an entry."""
        if looks.state is not xla.State.PENDING:
            self._waiting.drop(name)
        elif self._is_recent(looks) and self._waiting.add(name):
            self._new.add(name.namespace)
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled: compare what waits with what remotes hold."""
        while True:
            await self._wake.wait(_LOOK_EVERY_S if len(self._waiting) else None)
            self._refresh()
            for name in self._waiting.due(self._is_held):
                await self._start(name)

    def _is_recent(self, looks: Inspection) -> bool:
        made_at = max((facts.mtime_ns for facts in looks.files.values()), default=0) / 1e9
        return self._wall() - made_at < _RECENT_S

    def _is_held(self, name: ModuleName) -> bool:
        return name not in self._under_way and any(catalog.knows(*name) for catalog in self._catalogs())

    def _refresh(self) -> None:
        """Have the listings of new graphs' namespaces brought up to date; one slow remote keeps no other waiting."""
        if not self._new or self._clock() - self._refreshed_at < _REFRESH_EVERY_S:
            return
        self._refreshed_at = self._clock()
        namespaces, self._new = sorted(self._new), set()
        for number, catalog in enumerate(self._catalogs()):
            self._tasks.start(self._refresh_one(catalog, namespaces), name=f"pending-refresh-{number}")

    async def _refresh_one(self, catalog: Holder, namespaces: Sequence[str]) -> None:
        for namespace in namespaces:
            with contextlib.suppress(RemoteUnavailable):  # what it held when it was last read still counts
                await catalog.refresh(namespace)
        self._wake.set()

    async def _start(self, name: ModuleName) -> None:
        await self._slots.acquire()
        if name not in self._waiting:  # compiled, locked or removed while it waited for its turn
            self._slots.release()
            return
        self._under_way.add(name)
        self._tasks.start(self._bring(name), name=f"pending-{name.key}")

    async def _bring(self, name: ModuleName) -> None:
        try:
            answer = self._fetch(name)
            if isinstance(answer, Flight):
                answer = await asyncio.shield(answer.outcome)
            self._waiting.answered(name, answer)
            if answer.ready and answer != READY_HERE:
                self._note(name, "fetched-while-pending", source=answer.source)
        finally:
            self._under_way.discard(name)
            self._slots.release()
