"""Which modules are not evicted, since runs use them or did until just now. A plain object with an injected clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from neff.keys import ModuleName
from neffd.limits import PINS, fairly
from neffd.runs.recorder import Run

# Of so many runs that have ended.
MAX_ENDED = 50
# Of one user's runs together, those that somebody is connected for first, then those heard of last.
MAX_PINS = 20_000


class Pins:
    """What runs hold in the cache directories.

    Args:
        recent_s: for how long after a run's end.
        clock: monotonic seconds.
        on_limit: told which limit a user has met.
    """

    def __init__(self, recent_s: float, clock: Callable[[], float], on_limit: Callable[[str, int], None]) -> None:
        self.recent_s = recent_s
        self._clock = clock
        self._on_limit = on_limit
        self._ended: list[Run] = []

    def ended(self, run: Run) -> None:
        """A run is over; of more than are kept, the oldest of whoever has the most goes."""
        self._ended.append(run)
        if len(self._ended) > MAX_ENDED:
            self._ended.remove(fairly(self._ended, _uid)[0])

    def names(self, running: Iterable[Run]) -> set[ModuleName]:
        """What these use that go on, and those that have ended lately."""
        since_s = self._clock() - self.recent_s
        self._ended = [run for run in self._ended if run.connections or run.heard_s > since_s]
        pinned: set[ModuleName] = set()
        counted: Counter[int] = Counter()
        for run in sorted([*self._ended, *running], key=lambda run: (not run.connections, -run.heard_s)):
            counted[_uid(run)] += len(run.modules)
            if counted[_uid(run)] <= MAX_PINS:
                pinned.update(run.modules)
            else:
                self._on_limit(PINS, _uid(run))
        return pinned


def _uid(run: Run) -> int:
    return run.identity.uid
