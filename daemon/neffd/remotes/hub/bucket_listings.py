"""What is known of a bucket's namespaces: the digest of each listing, and the keys that are ready."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neffd.remotes.base import STILL_LISTING, RemoteUnavailable
from neffd.tasks import Tasks

_FILES_PER_PAGE = 1_000
# A bucket of many pages is listed less often: one request a second leaves most of an account's quota (1,000 in 5 min).
_PAGE_COST_S = 1.0
# Whoever has waited this long for a listing rather asks for single keys; one in which nothing moves ends by itself.
_WAIT_S = 0.5


@dataclass(frozen=True)
class Listing:
    """What is kept of a namespace's listing."""

    digest: str
    keys: frozenset[str]
    fresh_until_s: float


class Listings:
    """Takes listings, each once for everybody who asks meanwhile.

    A listing costs one API request for every 1,000 files, i.e. for about 200 entries: nothing cheaper tells of a
    change. It is therefore used again for a second a page, and for as long as it took. One that outlives its asker's
    patience goes on and serves the next.

    Args:
        take: lists a namespace and writes its ready keys, one a line, to a file.
        folder: for these files.
    """

    def __init__(
        self,
        take: Callable[[str, Path], Awaitable[dict[str, Any]]],
        folder: Path,
        tasks: Tasks,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._take = take
        self._folder = folder
        self._tasks = tasks
        self._clock = clock
        self._known: dict[str, Listing] = {}
        self._running: dict[str, asyncio.Task[Listing]] = {}

    def at_hand(self, namespace: str) -> Listing | None:
        """The last one if it is fresh."""
        known = self._known.get(namespace)
        return known if known is not None and self._clock() < known.fresh_until_s else None

    async def fresh(self, namespace: str) -> Listing:
        """One that is fresh as said above. Raises RemoteUnavailable: STILL_LISTING if it takes over a moment."""
        known = self.at_hand(namespace)
        if known is not None:
            return known
        running = self._running.get(namespace)
        if running is None:
            running = self._tasks.start(self._list(namespace), name=f"list-{namespace}", watched=True)
            self._running[namespace] = running
            running.add_done_callback(lambda _: self._running.pop(namespace, None))
        finished, _ = await asyncio.wait({running}, timeout=_WAIT_S)
        if not finished:
            raise RemoteUnavailable(STILL_LISTING)
        return running.result()

    async def _list(self, namespace: str) -> Listing:
        into = self._folder / f"keys-{namespace}"
        try:
            found = await self._take(namespace, into)
            present = await asyncio.to_thread(_read_keys, into)
        except OSError as error:
            raise RemoteUnavailable("disk", str(error)) from error
        finally:
            with contextlib.suppress(OSError):  # a file system that has become read-only says so of what is not there
                await asyncio.to_thread(into.unlink, missing_ok=True)
        fresh_s = max(float(found["took_s"]), int(found["files"]) // _FILES_PER_PAGE * _PAGE_COST_S)
        listing = Listing(str(found["digest"]), present, self._clock() + fresh_s)
        # What is not fresh serves nobody any more, and may be large.
        self._known = {name: known for name in self._known if (known := self.at_hand(name)) is not None}
        self._known[namespace] = listing
        return listing


def _read_keys(path: Path) -> frozenset[str]:
    return frozenset(path.read_text().split())
