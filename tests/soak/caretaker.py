"""What a person does who reads `neff status`: removes locks whose maker nobody can know.

A trainer that is killed before any daemon heard of its lock leaves one that neffd reports and, without proof, never
removes; stock would wait for it for ever.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.soak.host import Host

_EVERY_S = 5.0
# Many times what a compile takes here.
_OLD_S = 15.0


class Caretaker:
    """Looks at all hosts now and then.

    Attributes:
        removed: how many locks it has removed.
    """

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._hosts = hosts
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="caretaker", daemon=True)
        self.removed = 0

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def look(self) -> None:
        """Look at every host once."""
        for host in self._hosts:
            old = [lock for lock in host.locks() if _age_s(lock) > _OLD_S]
            answers = host.question("status") if old else None
            if answers is None:
                continue
            unknown = {row["name"] for row in answers[-1]["status"]["compiling"] if row["holder"] == "unknown"}
            for lock in old:
                if f"{lock.parent.parent.name}/{lock.parent.name}" in unknown:
                    lock.unlink(missing_ok=True)
                    self.removed += 1

    def _watch(self) -> None:
        while not self._over.wait(_EVERY_S):
            with contextlib.suppress(OSError):  # a folder that goes while it is looked at
                self.look()


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
