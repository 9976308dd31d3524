"""Adding up what the processes of a run met: each graph once, however many ranks met it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from neff.tally import COMPILED, FETCHED, LOCAL, MISSED, SUFFIX, WAITED, Event, Module, decode

# What a graph counts as when processes met it differently: whoever compiled it is why the others found it.
# Who only looked in vain cannot tell what became of it: such a graph is named, and in none of the numbers.
_PRECEDENCE = {MISSED: 0, LOCAL: 1, FETCHED: 2, COMPILED: 3}
_MOST_BYTES = 64 << 20


class Counts:
    """The graphs of one run. Fed with one process's lines at a time."""

    def __init__(self) -> None:
        self._kinds: dict[Module, str] = {}
        self._longest_s: dict[tuple[str, Module], float] = {}
        self._saved_s = 0.0

    def saved(self, saved_s: float | None) -> None:
        """What the daemon says that fetching saved the run: it counts what came before anybody asked, too."""
        self._saved_s = max(self._saved_s, saved_s or 0.0)

    def add(self, lines: bytes) -> None:
        """Add what one process wrote; torn lines and garbage are skipped."""
        waited_s: dict[Module, float] = {}
        for event in _events(lines):
            module = event.root, event.name
            if event.kind == WAITED:
                waited_s[module] = waited_s.get(module, 0.0) + (event.seconds or 0.0)
                continue
            if _PRECEDENCE[event.kind] > _PRECEDENCE.get(self._kinds.get(module, ""), -1):
                self._kinds[module] = event.kind
            self._keep_longest(event.kind, module, event.seconds)
        for module, seconds in waited_s.items():
            self._keep_longest(WAITED, module, seconds)

    def as_dict(self) -> dict[str, float]:
        """The numbers: how many graphs of which kind, and seconds."""
        kinds = [kind for kind in self._kinds.values() if kind != MISSED]
        return {
            "graphs": len(kinds),
            LOCAL: kinds.count(LOCAL),
            FETCHED: kinds.count(FETCHED),
            COMPILED: kinds.count(COMPILED),
            "waited_for": sum(kind == WAITED for kind, _ in self._longest_s),
            "compiled_s": round(self._total_s(COMPILED), 3),
            "waited_s": round(self._total_s(WAITED), 3),
            "saved_s": round(max(self._total_s(FETCHED), self._saved_s), 3),
        }

    def modules(self) -> list[dict[str, str]]:
        """Every module that was looked for: `name`, `root` (the cache directory), `met` (what it counts as)."""
        return [{"name": str(name), "root": root, "met": kind} for (root, name), kind in self._kinds.items()]

    def _keep_longest(self, kind: str, module: Module, seconds: float | None) -> None:
        if seconds is not None:
            self._longest_s[kind, module] = max(seconds, self._longest_s.get((kind, module), 0.0))

    def _total_s(self, kind: str) -> float:
        """Seconds of one kind; those of a graph that counts as something else do not."""
        return sum(
            seconds
            for (of_kind, module), seconds in self._longest_s.items()
            if of_kind == kind and kind in (WAITED, self._kinds.get(module))
        )


def read(folder: str) -> Counts:
    """What was written in a run's folder, and in those of the runs inside it."""
    counts = Counts()
    for directory, _, names in os.walk(folder):
        for name in names:
            if name.endswith(SUFFIX):
                counts.add(_content(os.path.join(directory, name)))
    return counts


def sentence(numbers: dict[str, float]) -> str | None:
    """The line for a person; None if no graph was met."""
    graphs = numbers["graphs"]
    if not graphs:
        return None
    parts = [f"{numbers[kind]:.0f} {kind}" for kind in (LOCAL, FETCHED) if numbers[kind]]
    if numbers[COMPILED]:
        parts.append(f"{numbers[COMPILED]:.0f} compiled ({duration(numbers['compiled_s'])})")
    if numbers["waited_for"]:
        parts.append(f"{numbers['waited_for']:.0f} waited for ({duration(numbers['waited_s'])})")
    if numbers["saved_s"] >= 1:
        parts.append(f"about {duration(numbers['saved_s'], roughly=True)} saved")
    return f"{graphs:.0f} graph{'' if graphs == 1 else 's'}: {', '.join(parts)}"


def _events(lines: bytes) -> Iterator[Event]:
    for line in lines.split(b"\n"):
        event = decode(line) if line else None
        if event is not None:
            yield event


def _content(path: str) -> bytes:
    """The file's content as far as it is sensible; never waits, whatever lies there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return b""
    with os.fdopen(fd, "rb") as file:
        return file.read(_MOST_BYTES) if stat.S_ISREG(os.fstat(fd).st_mode) else b""


def duration(seconds: float, *, roughly: bool = False) -> str:
    """`40 s`, `3 min 10 s`, `2 h 5 min`; roughly, `3 min`."""
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if minutes == 0:
        return f"{seconds:.0f} s"
    if hours == 0:
        return f"{seconds / 60:.0f} min" if roughly else f"{minutes} min {int(seconds % 60)} s"
    return f"{hours} h {minutes % 60} min"
