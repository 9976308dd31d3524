"""Asking the Hub what it knows of many paths: questions that come together go as one request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from neffd.remotes.base import RemoteFile
from neffd.remotes.hub.client import MAX_PATHS_PER_REQUEST
from neffd.tasks import Tasks

Ask = Callable[[list[str], str], Awaitable[Mapping[str, RemoteFile]]]

# Long enough for the ranks that meet a graph together, short against a round trip.
_GATHER_S = 0.002


class Lookups:
    """Gathers questions about paths at one revision.

    Args:
        ask: one request: paths and revision to the files that exist.
    """

    def __init__(self, ask: Ask, tasks: Tasks) -> None:
        self._ask = ask
        self._tasks = tasks
        self._gathering: dict[str, _Round] = {}

    async def files(self, paths: Iterable[str], revision: str) -> dict[str, RemoteFile]:
        """What the Hub knows of `paths`; those that do not exist are absent. Raises what `ask` raises."""
        wanted = list(paths)
        current = self._gathering.get(revision)
        if current is None or len(current.paths) + len(wanted) > MAX_PATHS_PER_REQUEST:
            current = self._gathering[revision] = _Round()
            current.task = self._tasks.start(self._run(current, revision), name="hub-lookup", watched=True)
        current.paths |= dict.fromkeys(wanted)
        assert current.task is not None
        found = await asyncio.shield(current.task)
        return {path: found[path] for path in wanted if path in found}

    async def _run(self, current: _Round, revision: str) -> Mapping[str, RemoteFile]:
        await asyncio.sleep(_GATHER_S)
        if self._gathering.get(revision) is current:
            del self._gathering[revision]
        return await self._ask(list(current.paths), revision)


class _Round:
    """Paths that will be asked together."""

    def __init__(self) -> None:
        self.paths: dict[str, None] = {}  # a set that keeps its order
        self.task: asyncio.Task[Mapping[str, RemoteFile]] | None = None
