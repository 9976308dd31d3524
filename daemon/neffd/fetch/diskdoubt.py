"""Fetches failed for this host's disk: said until something can be written there again."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

from neffd.serve.status import Problems
from neffd.store import fsops
from neffd.store.index import Index
from neffd.store.root import CacheRoot

# More than what file systems keep within a folder's own blocks.
_PROBE = bytes(65_536)
_SUBJECT = "fetch"


class DiskDoubt:
    """Whether the disk failed a fetch and nothing was written since. For the event loop, as the problems are.

    Args:
        problems: where it is said, as `disk`.
    """

    def __init__(self, root: CacheRoot, index: Index, problems: Problems) -> None:
        self._root = root
        self._index = index
        self._problems = problems
        self._failures = 0

    @property
    def is_in_doubt(self) -> bool:
        """Whether a look is worth while."""
        return self._failures > 0

    def failed(self, error: OSError | sqlite3.Error) -> None:
        """A fetch ended with `error`. That something went away under it says nothing of the disk."""
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            self._failures += 1
            detail = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self._problems.note("disk", detail, "", _SUBJECT)

    async def look(self, in_worker: Callable[[Callable[[], bool]], Awaitable[bool]]) -> None:
        """Where it is in doubt, write something; on a warm cache no fetch would show that it is over."""
        failures = self._failures
        # What failed meanwhile is news.
        if failures and await in_worker(self._can_write) and self._failures == failures:
            self._failures = 0
            self._problems.over("disk", subject=_SUBJECT)

    def _can_write(self) -> bool:
        folder: Path | None = None
        try:
            folder = self._root.new_folder("fetch")
            fsops.write_synced(folder / "probe", _PROBE)
            self._index.try_writing()
        except (OSError, sqlite3.Error):
            return False
        finally:
            if folder is not None:
                fsops.remove_tree(folder)
        return True
