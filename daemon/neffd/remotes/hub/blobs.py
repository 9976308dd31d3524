"""Contents on their way down, by the digest that the Hub states: each is brought once, however many files have it.

A small one is kept in memory for a while (the same `compile_flags.json` belongs to a hundred entries); a larger one is
shared with those who want it while it is under way (the same entry in two cache directories).
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from neffd.remotes.base import RemoteFile, Watcher
from neffd.store import fsops

SMALL_BYTES = 16 << 10
# Most small contents are one entry's and never wanted again; those that are stay.
_KEPT_BYTES = 256 << 10
# What keeping one costs beside its content.
_OVERHEAD_BYTES = 300
_PIECE_BYTES = 1 << 20


class OpenFile:
    """A file that may lose its name; it is closed when nobody holds it any more. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._fd = fsops.open_regular(path)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def pieces(self) -> Iterator[bytes]:
        """What it holds; for any number of readers at once."""
        position = 0
        while piece := os.pread(self._fd, _PIECE_BYTES, position):
            position += len(piece)
            yield piece


Content = bytes | OpenFile


class Lead:
    """One content that somebody brings, for all who want it."""

    def __init__(self, file: RemoteFile, watcher: Watcher) -> None:
        self.file = file
        self._watchers = [watcher]
        self._moved_bytes = 0
        self._outcome: asyncio.Future[Content | None] = asyncio.get_running_loop().create_future()

    @property
    def is_urgent(self) -> bool:
        return any(watcher.is_urgent for watcher in self._watchers)

    @property
    def is_awaited(self) -> bool:
        """Whether others want it and do not have it."""
        return len(self._watchers) > 1 and not self._outcome.done()

    def moved(self, count: int) -> None:
        """Bytes arrived: for all of them. From any thread."""
        self._moved_bytes += count
        for watcher in self._watchers:
            watcher.moved(count)

    def alive(self) -> None:
        """Something moves that it waits for: all of them hear of it."""
        for watcher in self._watchers:
            watcher.alive()

    async def follow(self, watcher: Watcher) -> Content | None:
        """The content, to be verified once more; None if whoever brought it failed."""
        self._watchers.append(watcher)
        before_bytes = self._moved_bytes
        content = await asyncio.shield(self._outcome)
        if content is not None:  # what came before is the follower's as well
            watcher.moved(max(0, self.file.size_bytes - self._moved_bytes + before_bytes))
        return content

    def settle(self, content: Content | None) -> None:
        """Hand the content over; None if it could not be brought, or nobody asked in time."""
        if not self._outcome.done():
            self._outcome.set_result(content)


class Blobs:
    """What is under way from one remote, and the small contents that came lately."""

    def __init__(self, most_bytes: int = _KEPT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept_bytes = 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._leads: dict[str, Lead] = {}

    def kept(self, file: RemoteFile) -> bytes | None:
        """The content, if it is small and came lately."""
        content = self._kept.get(_digest(file))
        if content is not None:
            self._kept.move_to_end(_digest(file))
        return content

    def join(self, file: RemoteFile, watcher: Watcher) -> tuple[Lead, bool]:
        """Who brings that content, and whether it is the caller, who then has to `settle` it."""
        digest = _digest(file)
        lead = self._leads.get(digest) if digest else None
        if lead is not None:
            return lead, False
        lead = Lead(file, watcher)
        if digest:
            self._leads[digest] = lead
        return lead, True

    def settle(self, lead: Lead, content: Content | None) -> None:
        """A content that the caller brought and verified, or None; says nothing the second time."""
        digest = _digest(lead.file)
        if self._leads.get(digest) is not lead:
            return
        del self._leads[digest]
        lead.settle(content)
        if isinstance(content, bytes):
            self._keep(digest, content)

    def _keep(self, digest: str, content: bytes) -> None:
        if digest not in self._kept:
            self._kept_bytes += len(content) + _OVERHEAD_BYTES
        self._kept[digest] = content
        while self._kept_bytes > self._most_bytes:
            self._kept_bytes -= len(self._kept.popitem(last=False)[1]) + _OVERHEAD_BYTES


def _digest(file: RemoteFile) -> str:
    """Empty where the Hub states none."""
    return file.sha256 or file.git_sha1 or ""
