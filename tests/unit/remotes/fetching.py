"""Fetching from a remote without a fetcher: somebody who waits, and notes what he is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from neff.keys import ModuleName
from neffd.fetch import verify
from neffd.remotes.base import Remote, RemoteEntry
from neffd.store.root import PART_SUFFIX


class Waiting:
    """A `neffd.remotes.base.Watcher`.

    Args:
        beside: where else on the host the entry lies.
        at_turn: called with the entry before its content may come.
        on_moved: called with each number of bytes.
    """

    def __init__(
        self,
        *,
        is_urgent: bool = True,
        beside: Path | None = None,
        at_turn: Callable[[RemoteEntry], object] = lambda entry: None,
        on_moved: Callable[[int], object] = lambda count: None,
    ) -> None:
        self.is_urgent = is_urgent
        self.moved_bytes = self.signs = 0
        self.beside = beside
        self._at_turn = at_turn
        self._on_moved = on_moved

    def nearby(self, file: str) -> Path | None:
        return None if self.beside is None else self.beside / file

    async def turn(self, entry: RemoteEntry) -> None:
        outcome = self._at_turn(entry)
        if hasattr(outcome, "__await__"):
            await outcome

    def moved(self, count: int) -> None:
        self.moved_bytes += count
        self._on_moved(count)

    def alive(self) -> None:
        self.signs += 1


async def fetched(
    remote: Remote, name: ModuleName, folder: Path, watcher: Waiting | None = None
) -> dict[str, bytes] | None:
    """Fetch into the new `folder` and verify, as the fetcher does; the files, or None if there is no such entry."""
    folder.mkdir()
    try:
        outcome = await remote.fetch(name, folder, watcher or Waiting())
    finally:
        arrived = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert all(file.endswith(PART_SUFFIX) for file in arrived), "nothing under a name that means something"
    if outcome is None:
        return None
    verify.check(outcome.entry, folder, outcome.digests)
    return {file.removesuffix(PART_SUFFIX): data for file, data in arrived.items()}
