"""When to send what waits, and how much of it at once: a plain object with an injected clock; no I/O."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

# Before an end only so much goes at once: something whole is better than much in part.
_HURRY_BYTES = 32 << 20


@dataclass(frozen=True)
class Item:
    """One journal row as the batcher sees it."""

    id: int
    size_bytes: int
    file_count: int
    queued_at: float  # unix time
    compile_s: float | None = None  # what compiling it took, where that is known


@dataclass(frozen=True)
class Limits:
    """A batch goes when nothing new came for `quiet_s`, when its oldest item is `max_delay_s` old, or when it is full.

    `max_bytes` and `max_files` bound a batch; a single larger item is a batch of its own.
    """

    quiet_s: float
    max_delay_s: float
    max_bytes: int
    max_files: int


class Batcher:
    """Collects items of one remote into batches: oldest first, in a hurry what cost most to compile first.

    What was in a batch before goes behind all that was not, or many that fail would keep the others waiting.

    Args:
        clock: monotonic seconds.
        wall: seconds since the epoch; believed in how long an item has waited before, up to `max_delay_s`.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float], wall: Callable[[], float] = time.time) -> None:
        self._limits = limits
        self._clock = clock
        self._wall = wall
        self._waiting: dict[int, tuple[Item, float]] = {}
        self._tried: dict[int, int] = {}  # in which batch, of what may come again
        self._batches = 0
        self._oldest_at = math.inf
        self._newest_at = clock()
        self._flush = self._is_hurried = False
        self._size_bytes = self._file_count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, item: Item) -> None:
        """Queue an item; one that is queued already keeps its place.

        What it has waited before counts: in an earlier life of the daemon, or until an attempt that failed.
        """
        now = self._clock()
        if item.id not in self._waiting:
            since = now - min(max(self._wall() - item.queued_at, 0.0), self._limits.max_delay_s)
            self._waiting[item.id] = (item, since)
            self._oldest_at = min(self._oldest_at, since)
            self._newest_at = now
            self._size_bytes += item.size_bytes
            self._file_count += item.file_count

    @property
    def oldest_queued_at(self) -> float | None:
        """When the oldest item was journaled (unix time)."""
        return min((item.queued_at for item, _ in self._waiting.values()), default=None)

    def flush(self) -> None:
        """Send everything that waits now without its quiet time."""
        self._flush = bool(self._waiting)

    def hurry(self) -> None:
        """The end is near: send without quiet times, in small batches, what cost most to compile first."""
        self._limits = replace(self._limits, quiet_s=0.0, max_bytes=min(self._limits.max_bytes, _HURRY_BYTES))
        self._is_hurried = True

    @property
    def due_in_s(self) -> float | None:
        """Seconds until a batch is due; 0 if one is; None while nothing waits."""
        if not self._waiting:
            return None
        if self._flush or self._is_full():
            return 0.0
        due_at = min(self._newest_at + self._limits.quiet_s, self._oldest_at + self._limits.max_delay_s)
        return max(0.0, due_at - self._clock())

    def take(self) -> list[Item]:
        """Remove and return the next batch: within the limits, but at least one item."""
        batch: list[Item] = []
        size_bytes = file_count = 0
        for item in self._in_order():
            size_bytes += item.size_bytes
            file_count += item.file_count
            if batch and (size_bytes > self._limits.max_bytes or file_count > self._limits.max_files):
                break
            batch.append(item)
            del self._waiting[item.id]
            self._size_bytes -= item.size_bytes
            self._file_count -= item.file_count
        self._batches += 1
        self._tried = {id: batch for id, batch in self._tried.items() if id in self._waiting}
        self._tried |= dict.fromkeys((item.id for item in batch), self._batches)
        if not self._waiting:
            self._flush = False
        self._oldest_at = min((since for _, since in self._waiting.values()), default=math.inf)
        return batch

    def _in_order(self) -> list[Item]:
        items = sorted((item for item, _ in self._waiting.values()), key=self._turn)
        return sorted(items, key=lambda item: -(item.compile_s or 0.0)) if self._is_hurried else items

    def _turn(self, item: Item) -> tuple[int, int]:
        return self._tried.get(item.id, 0), item.id

    def _is_full(self) -> bool:
        return self._size_bytes >= self._limits.max_bytes or self._file_count >= self._limits.max_files
