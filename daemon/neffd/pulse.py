"""Which parts of the daemon show signs of life, and when silence is too long. A plain object; no I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

# Who did not look for so many times as long as usual stood still with everybody else: a machine that slept, a signal.
_GAP = 3.0


class What(Enum):
    """What a look found."""

    SILENT = "silent"
    BACK = "back"
    TOO_LONG = "too-long"


@dataclass(frozen=True)
class Limits:
    """After how many seconds of silence a part is reported, and after how many it is given up; None for never."""

    report_s: float
    end_s: float | None = None


@dataclass(frozen=True)
class Finding:
    """One part, and for how long it has been silent, or was."""

    part: str
    what: What
    silent_s: float


class Pulse:
    """Signs of life, given from any thread.

    Args:
        clock: monotonic seconds.
        look_every_s: how often `look` is called.
    """

    def __init__(self, clock: Callable[[], float], look_every_s: float) -> None:
        self._clock = clock
        self._look_every_s = look_every_s
        self._looked_at = clock()
        self._limits: dict[str, Limits] = {}
        self._beat_at: dict[str, float] = {}
        self._silent: dict[str, float] = {}

    def expect(self, part: str, limits: Limits) -> None:
        """From now on `part` gives signs of life."""
        self._beat_at[part] = self._clock()
        self._limits = {**self._limits, part: limits}

    def forget(self, part: str) -> None:
        """No sign of `part` is expected any more."""
        self._limits = {name: limits for name, limits in self._limits.items() if name != part}

    def beat(self, part: str) -> None:
        """`part` lives."""
        self._beat_at[part] = self._clock()

    def look(self) -> list[Finding]:
        """What has changed since the last look; what is too long is found every time."""
        now = self._clock()
        gap_s = now - self._looked_at
        self._looked_at = now
        if gap_s > _GAP * self._look_every_s:
            for part in list(self._beat_at):
                self._beat_at[part] += gap_s
        return [finding for part, limits in self._limits.items() if (finding := self._look_at(part, limits, now))]

    def _look_at(self, part: str, limits: Limits, now: float) -> Finding | None:
        silent_s = now - self._beat_at[part]
        if limits.end_s is not None and silent_s >= limits.end_s:
            return Finding(part, What.TOO_LONG, silent_s)
        if silent_s >= limits.report_s:
            is_new = part not in self._silent
            self._silent[part] = silent_s
            return Finding(part, What.SILENT, silent_s) if is_new else None
        if part in self._silent:
            return Finding(part, What.BACK, self._silent.pop(part))
        return None


class Piecework:
    """Whether work that is done in pieces goes on: one piece may take so long.

    Args:
        limit_s: after which time in the same piece it is reported.
        clock: monotonic seconds.
        look_every_s: how often `look` is called.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float], look_every_s: float) -> None:
        self._pulse = Pulse(clock, look_every_s)
        self._pulse.expect("", Limits(limit_s))
        self._piece: float | None = None

    def look(self, busy_since: float | None) -> Finding | None:
        """What has changed since the last look; `busy_since` is when the present piece began, None if there is none."""
        if busy_since is None or busy_since != self._piece:
            self._piece = busy_since
            self._pulse.beat("")
        return next(iter(self._pulse.look()), None)
