"""How long a process may wait for the daemon in vain, all its questions together. A plain object; callers hold a lock
around it."""

from __future__ import annotations

# Enough for a greeting and the silence that proves a daemon hung; with what is earned meanwhile, below 2 s in a row.
CAPACITY_S = 1.75
# Of the time that passes, this part may be waited in vain: little beside the compiles that it passes with.
EARNED_PER_S = 0.05
# With less than this left no question has a fair chance.
LEAST_S = 0.25


class WaitingBudget:
    """Waits that brought nothing use it up, time and a wait that brought an entry restore it.

    Once it is spent nothing may be waited for until all of it is back: a question that gets only what has just been
    earned would be wasted again, however much sooner it comes.

    Args:
        capacity_s: how much there is at most, and at first.
        earned_per_s: how many seconds of it come back in a second.
    """

    def __init__(self, capacity_s: float = CAPACITY_S, earned_per_s: float = EARNED_PER_S) -> None:
        self._capacity_s = capacity_s
        self._earned_per_s = earned_per_s
        self._left_s = capacity_s
        self._seen_s = float("inf")
        self._is_spent = False

    def left_s(self, now_s: float) -> float:
        """How long the next question may wait; 0 while the budget is spent."""
        self._earn(now_s)
        return 0.0 if self._is_spent else self._left_s

    def wasted(self, waited_s: float, now_s: float) -> bool:
        """A wait of `waited_s` that has just ended brought nothing; whether that has spent the budget."""
        self._earn(now_s)
        was_spent = self._is_spent
        self._left_s = max(self._left_s - waited_s, 0.0)
        self._is_spent = was_spent or self._left_s < LEAST_S
        return self._is_spent and not was_spent

    def restore(self) -> None:
        """A wait brought an entry, which is worth more than all of it."""
        self._left_s, self._is_spent = self._capacity_s, False

    def _earn(self, now_s: float) -> None:
        passed_s, self._seen_s = max(now_s - self._seen_s, 0.0), now_s
        self._left_s = min(self._left_s + passed_s * self._earned_per_s, self._capacity_s)
        if self._left_s >= self._capacity_s:
            self._is_spent = False
