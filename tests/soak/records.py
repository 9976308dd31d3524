"""What trainers write down: one line an event, whole or not at all, in a file that outlives them."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Records:
    """Appends events of one trainer, all its lives, to a file.

    Args:
        who: named in each line.
    """

    def __init__(self, path: Path, who: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._who = who

    def add(self, what: str, **facts: Any) -> None:
        """Write one event down before anything that comes after it can be seen by others."""
        line = json.dumps({"what": what, "at": round(time.monotonic(), 3), "who": self._who, **facts})
        os.write(self._fd, line.encode() + b"\n")

    def close(self) -> None:
        """No more events."""
        os.close(self._fd)


@dataclass
class Told:
    """What all trainers wrote down.

    Attributes:
        compiled: for each graph the digests of the NEFFs that compilers made of it, noted before they were published.
        had: for each graph the hosts on which a trainer had it.
        steps_s: how long trainers waited for a graph, compiled or not.
        torn: what trainers saw that must never be seen.
        odd: failures of trainers that nothing in the soak explains.
    """

    compiled: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    had: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    steps_s: list[float] = field(default_factory=list)
    compiles: int = 0
    failures: int = 0
    checked: int = 0
    torn: list[dict[str, Any]] = field(default_factory=list)
    odd: list[dict[str, Any]] = field(default_factory=list)

    def note(self, event: dict[str, Any]) -> None:
        """Add one event."""
        what = event["what"]
        if what == "compiled":
            self.compiled[event["number"]].add(event["sha256"])
            self.compiles += 1
        elif what == "has":
            self.had[event["number"]].add(event["host"])
            self.steps_s.append(event["seconds"])
            self.checked += 1
        elif what == "looked":
            self.checked += 1
        elif what == "failed":
            self.failures += 1
        elif what in ("torn", "odd"):
            (self.torn if what == "torn" else self.odd).append(event)


def read(paths: Iterable[Path]) -> Told:
    """All events of these files."""
    told = Told()
    for path in paths:
        for line in path.read_text().splitlines():
            told.note(json.loads(line))
    return told
