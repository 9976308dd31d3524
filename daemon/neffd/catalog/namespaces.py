"""What is known of a remote's namespaces: no more of them than a bounded number, and which are worth a look unasked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, ItemsView, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# What a remote denied in one namespace, while there is no complete listing to tell.
_MOST_ABSENT = 10_000
# Anybody may name a namespace, and make one in a cache directory; no site has nearly as many compilers.
_MOST = 128
_MOST_USED = 64
# What nobody of this host's compilers is, but was asked about, is looked at for so long.
_POLLED_S = 4 * 3600.0
# Where there is nothing, it is soon as well known as before.
_EMPTY_KEPT_S = 600.0


@dataclass(eq=False)
class Namespace:
    """What we know of one namespace.

    `listed` is the version that `keys` is complete for, `current` the version seen at `checked_at`. `absent` holds
    keys that the remote itself denied at `current`. `is_used` says that a cache directory of this host has it;
    `askers` are under way.
    """

    keys: set[str] = field(default_factory=set)
    listed: str | None = None
    current: str | None = None
    checked_at: float | None = None
    absent: set[str] = field(default_factory=set)
    asked_at: float | None = None
    is_used: bool = False
    askers: int = 0

    @property
    def is_complete(self) -> bool:
        return self.listed is not None and self.listed == self.current

    def deny(self, keys: Collection[str]) -> None:
        """The remote said of these, at `current`, that there are no ready entries."""
        self.keys.difference_update(keys)
        self.absent.update(keys)
        while len(self.absent) > _MOST_ABSENT:
            self.absent.pop()


class Namespaces:
    """Those of one remote; of too many the one goes that nobody has asked about for longest, and that is not used.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: dict[str, Namespace] = {}
        self._dropped: set[str] = set()

    def __len__(self) -> int:
        return len(self._known)

    def items(self) -> ItemsView[str, Namespace]:
        """Name and facts of each."""
        return self._known.items()

    def get(self, name: str) -> Namespace | None:
        """What is known, if anything."""
        return self._known.get(name)

    def of(self, name: str) -> Namespace:
        """What is known; nothing, at first."""
        if name not in self._known:
            if len(self._known) >= _MOST:
                self._drop_one()
            self._known[name] = Namespace()
        return self._known[name]

    def use(self, name: str) -> bool:
        """A cache directory has it; whether that is news, and there are not too many."""
        known = self._known.get(name)
        if (known is not None and known.is_used) or sum(each.is_used for each in self._known.values()) >= _MOST_USED:
            return False
        self.of(name).is_used = True
        return True

    @contextlib.contextmanager
    def asked_about(self, name: str) -> Iterator[Namespace]:
        """While inside, what is known of it does not go."""
        known = self.of(name)
        known.asked_at = self._clock()
        known.askers += 1
        try:
            yield known
        finally:
            known.askers -= 1

    def polled(self) -> list[tuple[str, Namespace]]:
        """Those that are looked at without a question."""
        return [each for each in self._known.items() if each[1].is_used or self._was_asked(each[1], _POLLED_S)]

    def restore(self, saved: Mapping[str, tuple[str, set[str]]]) -> None:
        """Version and keys as an earlier life listed them, the latest last; what is known since then is newer."""
        for name, (version, keys) in saved.items():
            known = self.of(name)
            if known.listed is None:
                keys |= known.keys
                known.keys, known.listed = keys, version

    def status(self) -> dict[str, Any]:
        """Facts for the status page."""
        # Of what nobody looks at any more, only that it was looked at.
        checked = _looks(known for _, known in self.polled()) or _looks(self._known.values())[-1:]
        return {
            "namespaces": sum(known.listed is not None for known in self._known.values()),
            "keys": sum(len(known.keys) for known in self._known.values()),
            "age_s": round(self._clock() - checked[0], 3) if checked else None,
        }

    def drop_empty(self) -> None:
        """Let go of those in which there is nothing, and of which nobody wants to know."""
        for name, known in list(self._known.items()):
            if not (known.keys or known.is_used or known.askers or self._was_asked(known, _EMPTY_KEPT_S)):
                self._drop(name)

    def dropped(self) -> set[str]:
        """Those that went since the last call, and have not come again."""
        dropped, self._dropped = self._dropped, set()
        return dropped - self._known.keys()

    def _was_asked(self, known: Namespace, within_s: float) -> bool:
        return known.asked_at is not None and self._clock() - known.asked_at < within_s

    def _drop_one(self) -> None:
        idle = [name for name, known in self._known.items() if not (known.is_used or known.askers)]
        if idle:
            self._drop(min(idle, key=lambda name: self._known[name].asked_at or 0.0))

    def _drop(self, name: str) -> None:
        if self._known.pop(name).listed is not None:
            self._dropped.add(name)


def _looks(namespaces: Iterable[Namespace]) -> list[float]:
    """When each was looked at, the longest ago first."""
    return sorted(known.checked_at for known in namespaces if known.checked_at is not None)
