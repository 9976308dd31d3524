"""What of a cache directory is being compiled: as processes, the daemon that serves it and the age of locks tell."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from neffd.commands import localcache, serving
from neffd.commands.localcache import LocalEntry
from neffd.commands.serving import Compiling
from neffd.layouts.xla import State

_YOUNG_S = 60.0


@dataclass(frozen=True)
class InUse:
    """Who may be compiling: processes that can be seen here, and what a daemon knows, also of those that cannot."""

    compilers: list[int]
    daemon: Compiling | None

    def anything(self) -> str | None:
        """Why the directory as a whole is in use; None if nobody says so."""
        if self.compilers:
            return f"neuronx-cc runs (pid {self.compilers[0]})"
        if self.daemon is not None and (self.daemon.names or self.daemon.is_cut):
            return self.daemon.says(min(self.daemon.names, default=""))
        return None

    def why(self, entry: LocalEntry) -> str | None:
        """Why somebody may be compiling this entry; None if nobody is."""
        name = f"{entry.namespace}/{entry.key}"
        if self.daemon is not None and (name in self.daemon.names or (entry.locks and self.daemon.is_cut)):
            return self.daemon.says("it" if name in self.daemon.names else "")
        # Up to 2.14 a compile has no lock: its entry only lacks its NEFF.
        if self.compilers and (entry.locks or entry.state in (State.PENDING, State.EMPTY)):
            return self.anything()
        if any(_age_s(entry.path / lock) <= _YOUNG_S for lock in entry.locks):
            return f"a lock is younger than {_YOUNG_S:.0f} s"
        return None

    def why_any(self, entries: Iterable[LocalEntry]) -> str | None:
        """Why somebody may be compiling one of them; None if nobody is."""
        return next(filter(None, map(self.why, entries)), None)


def look(root: Path, socket: str | None) -> InUse:
    """Who compiles now; raises DaemonError where the daemon that was named does not answer."""
    return InUse(localcache.running_compilers(), serving.compiling(root, socket))


def _age_s(lock: Path) -> float:
    """Whoever has just taken a lock may not have started the compiler yet."""
    try:
        return time.time() - lock.lstat().st_mtime
    except OSError:
        return 0.0
