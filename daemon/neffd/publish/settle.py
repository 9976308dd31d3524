"""When is an entry worth another look? A plain object with an injected clock; no I/O.

An entry is taken once it was seen ready and unchanged for the settle time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from neff.keys import ModuleName

_LOOK_EVERY_S = 0.5
# A compile may take an hour, a failed entry stays for months: one that is not ready is looked at again after this
# part of the time that it has not changed for.
_PART_OF_AGE = 0.01


@dataclass
class _Seen:
    looks: Hashable
    since: float
    looked_at: float
    is_ready: bool = False

    @property
    def due_at(self) -> float:
        pause_s = 0.0 if self.is_ready else (self.looked_at - self.since) * _PART_OF_AGE
        return self.looked_at + max(_LOOK_EVERY_S, pause_s)


class Settling:
    """Entries on their way to ready, and how long each has looked the same.

    Args:
        settle_s: how long an entry must look the same.
        clock: monotonic seconds.
    """

    def __init__(self, settle_s: float, clock: Callable[[], float]) -> None:
        self._settle_s = settle_s
        self._clock = clock
        self._seen: dict[ModuleName, _Seen] = {}

    @property
    def ready_count(self) -> int:
        """Entries that are ready and not taken yet."""
        return len(self.ready())

    def ready(self) -> list[ModuleName]:
        """Entries that are ready and not taken yet, due or not."""
        return [name for name, seen in self._seen.items() if seen.is_ready]

    def is_ready(self, name: ModuleName) -> bool:
        """Whether an entry is ready and not taken yet."""
        seen = self._seen.get(name)
        return seen is not None and seen.is_ready

    @property
    def due_in_s(self) -> float | None:
        """Seconds until an entry is due; None while there is none."""
        due_at = min((seen.due_at for seen in self._seen.values()), default=None)
        return None if due_at is None else max(0.0, due_at - self._clock())

    def due(self) -> list[ModuleName]:
        """Entries to look at now."""
        now = self._clock()
        return [name for name, seen in self._seen.items() if seen.due_at <= now]

    def saw(self, name: ModuleName, looks: Hashable, *, is_ready: bool, extra_s: float = 0.0) -> bool:
        """Note how an entry looks now; true once it has been ready and the same for the settle time plus `extra_s`."""
        now = self._clock()
        seen = self._seen.get(name)
        if seen is None or seen.looks != looks:
            self._seen[name] = _Seen(looks, now, now, is_ready)
            return False
        seen.looked_at, seen.is_ready = now, is_ready
        return is_ready and now - seen.since >= self._settle_s + extra_s

    def drop(self, name: ModuleName) -> None:
        """The entry was taken, or there is nothing to wait for."""
        self._seen.pop(name, None)
