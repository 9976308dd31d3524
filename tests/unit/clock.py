"""A clock that only tests move."""

from __future__ import annotations


class Clock:
    """Monotonic seconds, as plain objects take them."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float) -> None:
        """Let time go by."""
        self.now_s += seconds
