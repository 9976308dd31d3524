"""Do file events still arrive? Now and then something is made that must cause one. A plain object; no I/O.

Counted are looks, not seconds: a process that was stopped meanwhile has not looked, and so missed nothing.
"""

from __future__ import annotations

from collections.abc import Callable

EVERY_S = 30.0
_LOOK_EVERY_S = 1.0
_LOOKS = 5


class Canary:
    """One sign at a time: sent, then heard or missing.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._due_at = clock()
        self._is_out = False
        self._looks = 0
        self.is_missing = False

    @property
    def due_in_s(self) -> float:
        """Seconds until `look` has something to say."""
        return max(0.0, self._due_at - self._clock())

    def is_due(self) -> bool:
        """Whether to send one now."""
        return not self._is_out and self.due_in_s == 0

    def sent(self) -> None:
        """What causes an event was done."""
        self._is_out, self._looks = True, 0
        self._due_at = self._clock() + _LOOK_EVERY_S

    def not_sent(self) -> None:
        """It could not be done, which says nothing of events."""
        self._is_out = False
        self._due_at = self._clock() + EVERY_S

    def heard(self) -> None:
        """The event came, or one that was sent before."""
        self.is_missing = False
        self.not_sent()

    def again(self) -> None:
        """Events come on another way from now on: try it soon."""
        self._is_out = False
        self._due_at = self._clock() + _LOOK_EVERY_S

    def look(self) -> bool:
        """Whether it has just turned out that the event does not come."""
        if not self._is_out or self.due_in_s > 0:
            return False
        self._looks += 1
        self._due_at = self._clock() + _LOOK_EVERY_S
        if self._looks < _LOOKS:
            return False
        self.is_missing = True
        self.not_sent()
        return True
