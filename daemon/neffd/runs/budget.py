"""How much may be fetched that nobody has asked for: as much as earlier guesses of the same kind were worth."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

# Of what a source had fetched, less than this part was used: it is worth less from then on.
_WASTEFUL = 0.2
_STEP = 4
_LEAST_PART = 1 / 256
# A source that has to prove itself first begins with this part.
_TRIAL_PART = 1 / 64
_MOST_SOURCES = 1_000
# What an entry is taken to hold until one has come.
_LIKELY_BYTES = 32 * 2**20


@dataclass
class _Source:
    allowance_bytes: float
    used_bytes: int = 0
    wasted_bytes: int = 0


class Budget:
    """Judges the sources of guesses, such as manifests of the same key, by what was used of them.

    For each user by itself: whoever has much brought and uses nothing of it spoils nobody else's.

    Args:
        most_bytes: what a source that is worth it may have fetched for one run.
        on_trial: sources that have to prove themselves.
    """

    def __init__(self, most_bytes: int, on_trial: Collection[str] = ()) -> None:
        self._most_bytes = most_bytes
        self._on_trial = on_trial
        self._sources: dict[tuple[str, int], _Source] = {}

    def allowance_bytes(self, source: str, uid: int = 0) -> int:
        """How much may be fetched for one run of a user because of `source`."""
        return int(self._of(source, uid).allowance_bytes)

    def judged(self, source: str, used_bytes: int, wasted_bytes: int, uid: int = 0) -> None:
        """A user's run has ended: of what it had fetched in advance this was used, and that was not."""
        known = self._of(source, uid)
        known.used_bytes += used_bytes
        known.wasted_bytes += wasted_bytes
        if used_bytes + wasted_bytes == 0:
            return
        is_wasteful = used_bytes < _WASTEFUL * (used_bytes + wasted_bytes)
        wanted = known.allowance_bytes / _STEP if is_wasteful else known.allowance_bytes * _STEP
        known.allowance_bytes = min(max(wanted, self._most_bytes * _LEAST_PART), self._most_bytes)

    def status(self) -> dict[str, dict[str, int]]:
        """Each source with what is thought of it: the most that one user's run may have, and the sums of all."""
        found: dict[str, dict[str, int]] = {}
        for (name, _), source in self._sources.items():
            facts = found.setdefault(name, {"allowance_bytes": 0, "used_bytes": 0, "wasted_bytes": 0})
            facts["allowance_bytes"] = max(facts["allowance_bytes"], int(source.allowance_bytes))
            facts["used_bytes"] += source.used_bytes
            facts["wasted_bytes"] += source.wasted_bytes
        return found

    def _of(self, source: str, uid: int) -> _Source:
        known = self._sources.get((source, uid))
        if known is None:
            part = _TRIAL_PART if source in self._on_trial else 1.0
            known = self._sources[source, uid] = _Source(self._most_bytes * part)
            if len(self._sources) > _MOST_SOURCES:
                del self._sources[next(iter(self._sources))]
        return known


class Spending:
    """What guesses have cost so far. Sizes are only somebody's word, and often nobody states them: then it is taken
    that what comes is as large as what came.

    Args:
        most_bytes: what may be fetched; None for as much as there is.
    """

    def __init__(self, most_bytes: float | None) -> None:
        self._most_bytes = float("inf") if most_bytes is None else most_bytes
        self._coming: dict[object, float] = {}
        self._coming_bytes = 0.0
        self._landed = 0
        self.spent_bytes = 0

    def narrow(self, room_bytes: int) -> None:
        """No more than so many bytes may come beside what has come, and comes."""
        self._most_bytes = min(self._most_bytes, self.spent_bytes + self._coming_bytes + room_bytes)

    def is_over(self, stated_bytes: int | None) -> bool:
        """Whether one more may not be begun, even by itself."""
        return self.spent_bytes >= self._most_bytes or self.spent_bytes + (stated_bytes or 0) > self._most_bytes

    def fits(self, stated_bytes: int | None) -> bool:
        """Whether one more may be begun beside what is coming."""
        return self.spent_bytes + self._coming_bytes + self._likely_bytes(stated_bytes) <= self._most_bytes

    def begun(self, what: object, stated_bytes: int | None) -> None:
        """`what` is coming."""
        self._coming[what] = self._likely_bytes(stated_bytes)
        self._coming_bytes = sum(self._coming.values())

    def landed(self, what: object, size_bytes: int) -> None:
        """It has come, and took so many bytes."""
        self._coming.pop(what, None)
        self._coming_bytes = sum(self._coming.values())
        self._landed += size_bytes > 0
        self.spent_bytes += size_bytes

    def _likely_bytes(self, stated_bytes: int | None) -> float:
        mean_bytes = self.spent_bytes / self._landed if self._landed else 0.0
        if stated_bytes:
            return max(stated_bytes, mean_bytes)
        return mean_bytes or _LIKELY_BYTES
