"""Is a transfer worth waiting for? How long the rest of it takes, against what compiling would. Plain; no I/O."""

from __future__ import annotations

from collections import deque

# Nobody waits longer than this for an entry, whatever its compile takes.
LONGEST_WAIT_S = 600.0
# Compiles that take less are not told apart: so long anybody may wait.
SHORTEST_WAIT_S = 5.0
# So long the bytes are watched before anything is concluded; longer where more is at stake.
_WATCHED_S = 3.0
_WATCHED_PART = 0.05


def limit_s(compile_s: float | None, shortest_s: float = SHORTEST_WAIT_S) -> float:
    """For how long an entry is worth waiting that takes `compile_s` to compile, or nobody knows how long."""
    return LONGEST_WAIT_S if compile_s is None else min(LONGEST_WAIT_S, max(compile_s, shortest_s))


def is_lost(waited_s: float, left_s: float | None, limit_s: float) -> bool:
    """Whether a wait of `limit_s` in all would end in vain, so that it had better end now.

    Args:
        left_s: how long the rest takes, see `Pace.left_s`.
    """
    return left_s is not None and waited_s + left_s > limit_s


class Pace:
    """How fast one transfer moves, by the last seconds of it.

    Args:
        limit_s: how long it is worth waiting for.
        now_s: monotonic; when it began.
        done_bytes: what was there by then.
    """

    def __init__(self, limit_s: float, now_s: float, done_bytes: int) -> None:
        self._watched_s = max(_WATCHED_S, _WATCHED_PART * limit_s)
        self._looks = deque([(now_s, done_bytes)])

    def left_s(self, now_s: float, done_bytes: int, total_bytes: int) -> float | None:
        """How long the rest takes if it goes on like this; to be asked now and then. None where that is not to be told.

        That is at first, where nothing moves (which has limits of its own), and where nothing is left.
        """
        looks = self._looks
        looks.append((now_s, done_bytes))
        while looks[1][0] <= now_s - self._watched_s:
            looks.popleft()
        since_s, since_bytes = looks[0]
        took_s, came_bytes, left_bytes = now_s - since_s, done_bytes - since_bytes, total_bytes - done_bytes
        if took_s < self._watched_s or came_bytes <= 0 or left_bytes <= 0:
            return None
        return left_bytes * took_s / came_bytes
