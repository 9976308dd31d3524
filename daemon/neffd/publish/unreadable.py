"""What the daemon may not read in one cache directory: said with the command that helps, until a scan meets no more."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from neff.keys import ModuleName
from neffd.store import sharing
from neffd.store.root import CacheRoot

REASON = "cannot-read"


class Unreadable:
    """Gathered while scans and looks go on; on the event loop, but for what is said to block.

    Args:
        on_problem: told reason, detail, and the command that helps.
        on_healed: told the reason once a whole scan met nothing unreadable.
    """

    def __init__(
        self, root: CacheRoot, on_problem: Callable[[str, str, str], None], on_healed: Callable[[str], None]
    ) -> None:
        self._root = root
        self._on_problem = on_problem
        self._on_healed = on_healed
        self._share_command = sharing.share_command(root.path)
        self._was_met = False
        self._entries: set[ModuleName] = set()

    def met(self, error: OSError) -> None:
        """A folder is another user's, or no file handle is left: it may be readable another time."""
        self._was_met = True
        self._on_problem(REASON, str(error), self._share_command if isinstance(error, PermissionError) else "")

    def given_up(self, name: ModuleName, detail: str, hint: str) -> None:
        """The files of an entry could not be read, and nobody tries again until they can."""
        self._entries.add(name)
        self._on_problem(REASON, detail, hint)

    def scan_begins(self) -> list[ModuleName]:
        """The entries given up whose files can be read now, or are gone: given up no more. Blocking."""
        self._was_met = False
        again = [name for name in list(self._entries) if _is_open(self._root.entry(name))]
        self._entries.difference_update(again)
        return again

    def scan_ended(self) -> None:
        """Everything has been looked at since `scan_begins`."""
        if not self._was_met and not self._entries:
            self._on_healed(REASON)


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
