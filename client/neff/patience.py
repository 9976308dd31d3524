"""How long one question may wait: plain objects, fed with messages and times."""

from __future__ import annotations

from typing import Protocol

from neff.protocol import FETCHING, Message

CONNECT_S = 0.25
FIRST_ANSWER_S = 3.0
NO_BYTES_S = 5.0
LONGEST_FETCH_S = 600.0
# While it fetches, the daemon speaks at least once a second: after this much silence it is not slow but hung.
HUNG_AFTER_S = 2.5
# How late a sign of life may come.
LATE_S = 0.5
# While somebody waits for a lock, the daemon speaks at least once a second.
WAIT_SILENCE_S = 5.0


class Patience(Protocol):
    """What `Connection.answers` needs to know about a limit."""

    @property
    def deadline_s(self) -> float:
        """Monotonic time at which waiting ends."""

    def heard(self, message: Message, now_s: float) -> None:
        """Take note of an answer."""


class FetchPatience:
    """A trainer's patience with one key: the first answer soon, then only as long as bytes keep coming.

    Args:
        alive_s: how often the daemon promises to say something while it looks; None if it does not.
        first_answer_s: how long the first answer may take.
    """

    def __init__(self, now_s: float, alive_s: float | None = None, first_answer_s: float = FIRST_ANSWER_S) -> None:
        self._silence_s = FIRST_ANSWER_S if alive_s is None else alive_s + LATE_S
        self._first_answer_by_s = now_s + min(first_answer_s, FIRST_ANSWER_S)
        self.deadline_s = min(self._first_answer_by_s, now_s + self._silence_s)
        self.asked_s = now_s
        self._heard_s = now_s
        self._more_bytes_s = now_s
        self._done_bytes = -1.0

    def heard(self, message: Message, now_s: float) -> None:
        self._heard_s = now_s
        if message.get("state") != FETCHING:
            if self._done_bytes < 0:
                self.deadline_s = min(self._first_answer_by_s, now_s + self._silence_s)
            return
        done_bytes = _number(message.get("done_bytes"), 0.0)
        if done_bytes > self._done_bytes:
            self._done_bytes = done_bytes
            self._more_bytes_s = now_s
        give_up_s = min(_number(message.get("give_up_s"), LONGEST_FETCH_S), LONGEST_FETCH_S)
        self.deadline_s = min(self._more_bytes_s + NO_BYTES_S, self.asked_s + give_up_s)

    def is_hung(self, now_s: float) -> bool:
        """Whether the daemon itself has fallen silent, and is not only slow."""
        # Added as for the deadline: a difference of times may round to less than the pause between them.
        return now_s >= self._heard_s + min(HUNG_AFTER_S, self._silence_s)


class SilencePatience:
    """A person's patience: as long as the daemon keeps talking, and `total_s` at most where that is given."""

    def __init__(self, now_s: float, silence_s: float, total_s: float | None = None) -> None:
        self._silence_s = silence_s
        self._end_s = float("inf") if total_s is None else now_s + total_s
        self.deadline_s = min(now_s + silence_s, self._end_s)

    def heard(self, message: Message, now_s: float) -> None:
        self.deadline_s = min(now_s + self._silence_s, self._end_s)


def _number(value: object, default: float) -> float:
    """`value` if it is a usable size or time, else `default`; NaN, negatives and huge integers are not."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e18:
        return float(value)
    return default
