"""What the daemon may not read in one cache directory: said with the command that helps, until a scan meets no more."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from neff.keys import ModuleName
from neffd.serve.status import Problems
from neffd.store import sharing
from neffd.store.root import CacheRoot

REASON = "cannot-read"


class Unreadable:
    """Gathered while scans and looks go on; on the event loop, but for what is said to block."""

    def __init__(self, root: CacheRoot, problems: Problems) -> None:
        self._root = root
        self._problems = problems
        self._share_command = sharing.share_command(root.path)
        self._met: set[str] = set()
        self._met_before: set[str] = set()
        self._entries: set[ModuleName] = set()
        self._again: list[ModuleName] = []

    def met(self, error: OSError) -> None:
        """A folder is another user's, or no file handle is left: it may be readable another time."""
        self._met.add(str(error))
        command = self._share_command if isinstance(error, PermissionError) else ""
        self._problems.note(REASON, str(error), command, subject=str(error))

    def given_up(self, name: ModuleName, detail: str, hint: str) -> None:
        """The files of an entry could not be read, and nobody tries again until they can."""
        self._entries.add(name)
        self._problems.note(REASON, detail, hint, str(name))

    def scan_begins(self) -> list[ModuleName]:
        """The entries given up whose files can be read now, or are gone: given up no more. Blocking."""
        self._met_before |= self._met
        self._met = set()
        self._again = [name for name in list(self._entries) if _is_open(self._root.entry(name))]
        self._entries.difference_update(self._again)
        return self._again

    def scan_ended(self) -> None:
        """Everything has been looked at since `scan_begins`."""
        mended = (self._met_before - self._met) | set(map(str, self._again))
        for subject in mended:
            self._problems.over(REASON, subject=subject)
        self._met_before, self._again = set(), []


def check_open(folder: Path) -> None:
    """Raise PermissionError for a folder whose entries would look as if there were none. Blocking."""
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "no permission", str(folder))


def _is_open(entry: Path) -> bool:
    try:
        return all(os.access(file, os.R_OK) for file in entry.iterdir())
    except FileNotFoundError:
        return True
    except OSError:
        return False
