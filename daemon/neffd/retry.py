"""When to try again: plain objects with an injected clock, no I/O."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Exponential back-off with full jitter; the first delay is short, success resets it.

    Args:
        first_s: upper bound of the first delay.
        limit_s: upper bound of every delay, unless the remote asks for longer.
        clock: monotonic seconds.
        jitter: a number from 0 to 1; injected by tests.
    """

    def __init__(
        self,
        first_s: float,
        limit_s: float,
        clock: Callable[[], float],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._first_s = first_s
        self._limit_s = limit_s
        self._clock = clock
        self._jitter = jitter
        self.failures = 0
        self._until = clock()

    @property
    def wait_s(self) -> float:
        """Seconds until the next try is due; 0 if it is due now."""
        return max(0.0, self._until - self._clock())

    def failed(self, retry_after_s: float | None = None) -> None:
        """Note a failure; `retry_after_s` is what the remote asked for, and a lower bound."""
        ceiling_s = min(self._limit_s, self._first_s * 2**self.failures)
        self.failures = min(self.failures + 1, 32)
        delay_s = ceiling_s * (0.5 + 0.5 * self._jitter())
        self._until = self._clock() + max(delay_s, retry_after_s or 0.0)

    def at_least(self, wait_s: float) -> None:
        """The next try is due no sooner than in `wait_s`."""
        self._until = max(self._until, self._clock() + wait_s)

    def succeeded(self) -> None:
        """Note a success: the next failure starts small again."""
        self.failures = 0
        self._until = self._clock()
