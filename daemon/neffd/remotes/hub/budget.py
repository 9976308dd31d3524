"""How often we may commit: the Hub allows about 128 commits an hour for everybody who shares a token.

A plain object with an injected clock. A burst is free, so that small teams see no delay; then commits are spaced so
that an hour never holds more than the limit, and what waits meanwhile goes in larger batches.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

PER_HOUR = 120
BURST = 20
# How long to wait where the Hub says "too many" without saying how long.
OWN_ESTIMATE_S = 300.0
_HOUR_S = 3600.0

_RATE_LIMIT = re.compile(r'"[a-z]+"\s*;\s*r=(?P<left>\d{1,9})\s*;\s*t=(?P<reset_s>\d{1,6})')


def retry_after_s(rate_limit: str, retry_after: str) -> float | None:
    """How long the Hub asks us to wait: `RateLimit` with nothing left, else `Retry-After` in whole seconds.

    At most an hour, the longest window that the Hub has: no answer, however wrong, may silence us for days.
    """
    match = _RATE_LIMIT.search(rate_limit)
    if match is not None and int(match["left"]) == 0:
        return min(float(match["reset_s"]) + 1, _HOUR_S)
    return min(float(retry_after) + 1, _HOUR_S) if re.fullmatch(r"[0-9]{1,6}", retry_after) else None


class CommitBudget:
    """Paces commits of one remote.

    Args:
        per_hour: most commits in any hour.
        burst: how many of them may follow each other without a pause.
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float], per_hour: int = PER_HOUR, burst: int = BURST) -> None:
        self._clock = clock
        self._burst = min(burst, per_hour)
        self._gap_s = _HOUR_S / max(1, per_hour - self._burst)
        self._per_hour = per_hour
        self._spent: deque[float] = deque()
        self._held_until = clock()

    @property
    def held_s(self) -> float:
        """Seconds for which the Hub itself asked us to keep still."""
        return max(0.0, self._held_until - self._clock())

    def hold(self, seconds: float) -> None:
        """The Hub answered that there were too many."""
        self._held_until = max(self._held_until, self._clock() + seconds)

    @property
    def wait_s(self) -> float:
        """Seconds until a commit fits into the budget."""
        return max(self.held_s, self._own_wait_s())

    def _own_wait_s(self) -> float:
        now = self._clock()
        while self._spent and self._spent[0] + _HOUR_S <= now:  # as below, so that both round alike
            self._spent.popleft()
        if len(self._spent) < self._burst:
            return 0.0
        spaced_at = self._spent[-1] + self._gap_s
        if len(self._spent) >= self._per_hour:
            spaced_at = max(spaced_at, self._spent[-self._per_hour] + _HOUR_S)
        burst_at = self._spent[-self._burst] + _HOUR_S
        return max(0.0, min(spaced_at, burst_at) - now)

    def spend(self) -> None:
        """Count one attempt, before it is made: one that is cut short may have landed."""
        self._spent.append(self._clock())

    def give_back(self) -> None:
        """The last attempt was refused, so it is no commit."""
        if self._spent:
            self._spent.pop()
