"""When a daemon that failed may be contacted again. A plain object; callers hold a lock around it."""

from __future__ import annotations


class BackOff:
    """After a failure one attempt a period, over all threads; the period doubles up to a limit."""

    def __init__(self, first_s: float = 10.0, longest_s: float = 300.0) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._period_s = 0.0
        self._failed_s = float("-inf")
        self._next_s = float("-inf")

    def admits(self, now_s: float) -> bool:
        """Whether an attempt may begin now. After a failure, saying yes uses up the period's one attempt."""
        if self._period_s == 0:
            return True
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self._period_s
        return True

    @property
    def is_well(self) -> bool:
        """Whether nothing has failed since the last success."""
        return self._period_s == 0

    def failed_since(self, started_s: float) -> bool:
        """Whether some attempt has failed after `started_s`."""
        return self._failed_s >= started_s

    def failed(self, started_s: float, now_s: float) -> None:
        """An attempt begun at `started_s` failed. Attempts that ran side by side count as one failure."""
        if self.failed_since(started_s):
            return
        self._period_s = min(self._period_s * 2, self._longest_s) or self._first_s
        self._failed_s = now_s
        self._next_s = now_s + self._period_s

    def succeeded(self) -> None:
        """The daemon answered a question: all is well again."""
        self._period_s = 0.0
