"""Fetches failed for this host's disk: said until something can be written there again. Blocking."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from neffd.serve.status import Problems
from neffd.store import fsops
from neffd.store.index import Index
from neffd.store.root import CacheRoot

# More than what file systems keep within a folder's own blocks.
_PROBE = bytes(65_536)
_SUBJECT = "fetch"


class DiskDoubt:
    """Whether the disk failed a fetch and nothing was written since.

    Args:
        problems: where it is said, as `disk`.
    """

    def __init__(self, root: CacheRoot, index: Index, problems: Problems) -> None:
        self._root = root
        self._index = index
        self._problems = problems
        self.is_in_doubt = False

    def failed(self, error: OSError | sqlite3.Error) -> None:
        """A fetch ended with `error`. That something went away under it says nothing of the disk."""
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            self.is_in_doubt = True
            detail = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self._problems.note("disk", detail, "", _SUBJECT)

    def look(self) -> None:
        """Where it is in doubt, write something; on a warm cache no fetch would show that it is over."""
        if not self.is_in_doubt:
            return
        folder: Path | None = None
        try:
            folder = self._root.new_folder("fetch")
            fsops.write_synced(folder / "probe", _PROBE)
            self._index.try_writing()
        except (OSError, sqlite3.Error):
            return
        finally:
            if folder is not None:
                fsops.remove_tree(folder)
        self.is_in_doubt = False
        self._problems.over("disk", subject=_SUBJECT)
