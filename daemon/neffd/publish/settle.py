"""When is an entry worth another look? A plain object with an injected clock; no I/O.

An entry is taken once it was seen ready and unchanged for the settle time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from neff.keys import ModuleName

# A compile may take an hour; looking twice a second all the while would cost more than it tells.
_LEFT_TO_EVENTS_S = 120.0


class Settling:
    """Entries on their way to ready, and how long each has looked the same.

    Args:
        settle_s: how long an entry must look the same.
        clock: monotonic seconds.
    """

    def __init__(self, settle_s: float, clock: Callable[[], float]) -> None:
        self._settle_s = settle_s
        self._clock = clock
        self._seen: dict[ModuleName, tuple[Hashable, float]] = {}
        self._ready: set[ModuleName] = set()

    @property
    def ready_count(self) -> int:
        """Entries that are ready and not taken yet."""
        return len(self._ready)

    def due(self) -> list[ModuleName]:
        """Entries to look at again soon; one that has not changed for long is left to events and scans."""
        now = self._clock()
        return [name for name, (_, since) in self._seen.items() if now - since < _LEFT_TO_EVENTS_S]

    def saw(self, name: ModuleName, looks: Hashable, *, is_ready: bool, extra_s: float = 0.0) -> bool:
        """Note how an entry looks now; true once it has been ready and the same for the settle time plus `extra_s`."""
        now = self._clock()
        self._ready.add(name) if is_ready else self._ready.discard(name)
        before = self._seen.get(name)
        if before is None or before[0] != looks:
            self._seen[name] = (looks, now)
            return False
        return is_ready and now - before[1] >= self._settle_s + extra_s

    def drop(self, name: ModuleName) -> None:
        """The entry was taken, or there is nothing to wait for."""
        self._seen.pop(name, None)
        self._ready.discard(name)
