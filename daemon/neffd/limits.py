"""What one user may take of the service, so that the others find some. Plain objects with an injected clock.

Whoever is beyond a limit works as without neffd; that it was so, and why, is in the status.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from neffd.metrics import Metrics

log = logging.getLogger(__name__)
T = TypeVar("T")

CONNECTIONS, FLUSHES, STORIES = "too-many-connections", "too-many-flushes", "too-many-stories"
GUESSES, PREFETCHES = "too-many-guesses", "too-many-prefetches"
RUNS, MODULES, PINS = "too-many-runs", "too-many-modules", "too-many-pins"

# One user alone has half of them: sixteen processes for each of 64 ranks.
MAX_CONNECTIONS = 2_048
# Prefetches under way that somebody has asked for; a compiler version is all that there is.
MAX_PREFETCHES, MAX_COMPILERS = 32, 1
# Each asks remotes what runs of a key used, or under which names they hold a key: their quota is for all.
GUESSES_IN_A_ROW, GUESS_EVERY_S = 128, 1.0
# What looks at every entry now, and sends what waits before its time: an hour's commits are for all.
MAX_FLUSHES, FLUSHES_IN_A_ROW, FLUSH_EVERY_S = 8, 8, 60.0
# Each may look at the name of every entry.
MAX_STORIES = 8
_ENOUGH_FILES = 65_536
_SHOWN_S = 3600.0
_MOST_SHOWN = 50


class Share:
    """So many for all users together; nobody has more than are left, so that there are always some for the next one.

    Args:
        most: for all users; None for any number.
        each: the most that one of them may have, however many are left.
    """

    def __init__(self, most: int | None = None, each: int | None = None) -> None:
        self._most = float("inf") if most is None else most
        self._each = float("inf") if each is None else each
        self._held: Counter[int] = Counter()
        self._total = 0

    def has_room(self, uid: int) -> bool:
        """Whether a user may have one more."""
        return self._held[uid] < min(self._each, self._most - self._total)

    def take(self, uid: int) -> bool:
        """Give a user one more; false where it may not have it."""
        if not self.has_room(uid):
            return False
        self.put(uid)
        return True

    def put(self, uid: int, count: int = 1) -> None:
        """A user has so many more, whatever it may."""
        self._held[uid] += count
        self._total += count

    def give_back(self, uid: int, count: int = 1) -> None:
        """A user has so many less."""
        self._held[uid] -= count
        self._total -= count
        if self._held[uid] <= 0:
            del self._held[uid]


class Allowance:
    """What a user may do so many times in a row, and once more each `every_s` seconds."""

    def __init__(self, in_a_row: int, every_s: float, clock: Callable[[], float]) -> None:
        self._in_a_row = in_a_row
        self._every_s = every_s
        self._clock = clock
        self._spent_until_s: dict[int, float] = {}  # when all of it will be there again

    def take(self, uid: int) -> bool:
        """Whether the user may do it now; then it has done so."""
        now_s = self._clock()
        until_s = max(now_s, self._spent_until_s.get(uid, now_s)) + self._every_s
        if until_s > now_s + self._in_a_row * self._every_s:
            return False
        self._spent_until_s = {other: at_s for other, at_s in self._spent_until_s.items() if at_s > now_s}
        self._spent_until_s[uid] = until_s
        return True


class Limits:
    """Those of connections and of what is asked; and who was beyond any of them lately.

    Args:
        apart: users that could take all of it anyway, and have no limits; None for root and the daemon's own.
        clock: monotonic seconds.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float], apart: Collection[int] | None = None) -> None:
        self._metrics = metrics
        self._clock = clock
        self._apart = frozenset({0, os.geteuid()} if apart is None else apart)
        self._met: dict[tuple[int, str], tuple[int, float]] = {}
        self.connections = Share(min(MAX_CONNECTIONS, _open_files()[0] // 2))  # the other half is for our own work
        self.prefetches = Share(each=MAX_PREFETCHES)
        self.compilers = Share(each=MAX_COMPILERS)
        self.flushes = Share(each=MAX_FLUSHES)
        self.stories = Share(each=MAX_STORIES)
        self._guesses = Allowance(GUESSES_IN_A_ROW, GUESS_EVERY_S, clock)
        self._hurries = Allowance(FLUSHES_IN_A_ROW, FLUSH_EVERY_S, clock)

    def take(self, share: Share, uid: int, reason: str) -> bool:
        """Give a user one more of `share`, to be given back; false, and noted under `reason`, where it may not."""
        taken = uid in self._apart or share.take(uid)
        if not taken:
            self.met(reason, uid)
        return taken

    def give_back(self, share: Share, uid: int) -> None:
        """A user has one less of `share`."""
        if uid not in self._apart:
            share.give_back(uid)

    def may_hurry(self, uid: int) -> bool:
        """Whether what waits goes before its time for this user once more."""
        return self._may(self._hurries, uid, FLUSHES)

    def may_guess(self, uid: int) -> bool:
        """Whether remotes are asked for this user once more what runs used."""
        return self._may(self._guesses, uid, GUESSES)

    def met(self, reason: str, uid: int) -> None:
        """A user is beyond a limit."""
        times, _ = self._met.pop((uid, reason), (0, 0.0))
        self._met[uid, reason] = times + 1, self._clock()
        self._metrics.limits_met.labels(reason).inc()
        if not times:
            log.warning("uid %d is beyond a limit: %s", uid, reason)
        if len(self._met) > _MOST_SHOWN:
            del self._met[next(iter(self._met))]

    def _may(self, allowance: Allowance, uid: int, reason: str) -> bool:
        may = uid in self._apart or allowance.take(uid)
        if not may:
            self.met(reason, uid)
        return may

    def status(self) -> list[dict[str, Any]]:
        """For the status document: who met which in the last hour, the latest last."""
        now_s = self._clock()
        self._met = {key: facts for key, facts in self._met.items() if now_s - facts[1] < _SHOWN_S}
        return [
            {"uid": uid, "reason": reason, "times": times, "ago_s": round(now_s - at_s, 1)}
            for (uid, reason), (times, at_s) in self._met.items()
        ]


def raise_open_files() -> None:
    """Let this process have as many files open as it may: each client is one."""
    now, most = _open_files()
    if now < _ENOUGH_FILES:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _ENOUGH_FILES), hard))


def _open_files() -> tuple[int, int]:
    """How many this process may have open, and to how many it may raise that."""
    now, most = (sys.maxsize if most < 0 else most for most in resource.getrlimit(resource.RLIMIT_NOFILE))
    return now, most


def fairly(items: Sequence[T], uid_of: Callable[[T], int]) -> list[T]:
    """In which order they go where there are too many: each time the first one of whoever has the most."""
    counted: Counter[int] = Counter()
    ranks = []
    for item in reversed(items):
        counted[uid_of(item)] += 1
        ranks.append(counted[uid_of(item)])
    return [item for _, item in sorted(zip(reversed(ranks), items, strict=True), key=lambda pair: -pair[0])]
