"""Which entries go when there is too much: a pure decision on facts. No I/O, no clock of its own.

Wanted back, an entry costs a download and, should that fail, a compile; one that no remote holds costs its compile.
That, against the bytes that its removal frees and the time it was not used, is what keeping it is worth.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from neff.keys import ModuleName

_FETCH_LATENCY_S = 0.5
_FETCH_BYTES_PER_S = 50e6
# How often what one remote holds cannot be had when it is wanted: away, refused, taken down.
_FETCH_RISK = 0.02
_UNKNOWN_COMPILE_S = 60.0
# Uses that are closer together than this are one use.
_SHORTEST_IDLE_S = 60.0
# How fast the hope goes that an entry is wanted again; the best of those tried in tests/bench/eviction.py.
_FADING = 1.5
_NUMBER = re.compile(r"\d+")


class Kept(str, Enum):
    """Why an entry is not evicted."""

    NOT_READY = "not-ready"
    LOCKED = "locked"
    PINNED = "pinned"
    WAITING = "waiting-for-upload"
    IN_USE = "in-use"
    RECENT = "recently-used"
    REMOTE_AWAY = "remote-away"
    NOT_SHARED = "not-shared"
    NOT_PERMITTED = "not-permitted"


@dataclass(frozen=True)
class Entry:
    """Facts about one local entry.

    Args:
        used_at: when it was last used as far as we know, wall seconds.
        compile_s: what compiling it took, None where nobody noted it.
        copies: remotes that hold it and answer; `copies_away`: remotes that held it when they last answered.
        is_waiting: in the journal, or on its way there.
        kept: a reason that only trying could tell.
    """

    name: ModuleName
    size_bytes: int
    used_at: float
    compile_s: float | None = None
    copies: int = 0
    copies_away: int = 0
    is_ready: bool = True
    is_locked: bool = False
    is_waiting: bool = False
    is_pinned: bool = False
    kept: Kept | None = None


@dataclass(frozen=True)
class Policy:
    """What may go: nothing used in the last `protect_s` seconds; what no remote holds only with `evict_unshared`."""

    protect_s: float = 600.0
    evict_unshared: bool = False
    old_versions_first: bool = False


@dataclass(frozen=True)
class Goal:
    """How much has to go; false when nothing has."""

    size_bytes: int = 0
    entries: int = 0

    def __bool__(self) -> bool:
        return self.size_bytes > 0 or self.entries > 0


@dataclass(frozen=True)
class Limits:
    """How much a cache directory may hold, and how much of its file system stays free.

    Removal begins beyond `high` (a share of the limit) and goes on to `low`, so that it comes in strides.
    """

    max_bytes: int | None = None
    max_entries: int | None = None
    min_free_bytes: int = 0
    high: float = 0.95
    low: float = 0.85

    def goal(self, held_bytes: int, held_entries: int, free_bytes: int) -> Goal:
        """What has to go from a directory that holds this much, on a file system with `free_bytes` left."""
        too_many_bytes = self._over(held_bytes, self.max_bytes)
        if free_bytes < self.min_free_bytes / self.high:
            too_many_bytes = max(too_many_bytes, int(self.min_free_bytes / self.low) - free_bytes)
        return Goal(too_many_bytes, self._over(held_entries, self.max_entries))

    def _over(self, held: int, limit: int | None) -> int:
        if limit is None or held <= limit * self.high:
            return 0
        return held - int(limit * self.low)


@dataclass(frozen=True)
class Selection:
    """Entries to remove, first ones first; whether they reach the goal; why the others stay, counted."""

    remove: tuple[Entry, ...]
    reaches_goal: bool
    kept: Counter[Kept]


@dataclass
class Told:
    """What remotes were asked for, and said they hold, since it was decided that something has to go."""

    asked: set[ModuleName] = field(default_factory=set)
    held: set[ModuleName] = field(default_factory=set)

    @property
    def doubtful(self) -> frozenset[ModuleName]:
        """What was denied, or nobody could say of."""
        return frozenset(self.asked - self.held)


def select(entries: Iterable[Entry], goal: Goal, policy: Policy, now: float) -> Selection:
    """Choose what to remove for `goal`: as little as does it, in the order of what is least worth keeping.

    Args:
        now: wall seconds.
    """
    free_to_go: list[Entry] = []
    kept: Counter[Kept] = Counter()
    for entry in entries:
        why = kept_because(entry, policy, now)
        if why is None:
            free_to_go.append(entry)
        else:
            kept[why] += 1
    # Where only their number is too large, a small one makes as much room as a large one.
    by_size = goal.size_bytes > 0

    def order(entry: Entry) -> tuple[tuple[int, ...], float, ModuleName]:
        version = _version(entry.name) if policy.old_versions_first else ()
        return version, _worth(entry, now, by_size=by_size), entry.name

    remove: list[Entry] = []
    freed_bytes = 0
    for entry in sorted(free_to_go, key=order):
        if freed_bytes >= goal.size_bytes and len(remove) >= goal.entries:
            break
        remove.append(entry)
        freed_bytes += entry.size_bytes
    return Selection(tuple(remove), freed_bytes >= goal.size_bytes and len(remove) >= goal.entries, kept)


def kept_because(entry: Entry, policy: Policy, now: float) -> Kept | None:
    """Why an entry stays whatever it takes; None for one that may go."""
    if not entry.is_ready:
        return Kept.NOT_READY
    if entry.is_locked:
        return Kept.LOCKED
    if entry.is_pinned:
        return Kept.PINNED
    if entry.is_waiting:
        return Kept.WAITING
    if entry.kept is not None:
        return entry.kept
    if is_recent(entry.used_at, policy, now):
        return Kept.RECENT
    if not entry.copies and not policy.evict_unshared:
        return Kept.REMOTE_AWAY if entry.copies_away else Kept.NOT_SHARED
    return None


def is_recent(used_at: float, policy: Policy, now: float) -> bool:
    """Whether a use at `used_at` protects; both wall seconds."""
    # One far in the future is the word of a clock that has been set back since: not to be waited for.
    return abs(now - used_at) < policy.protect_s


def cost_to_get_back_s(entry: Entry) -> float:
    """Expected seconds until the entry is there again once it is wanted."""
    compile_s = _UNKNOWN_COMPILE_S if entry.compile_s is None else entry.compile_s
    if not entry.copies:
        return max(compile_s, _FETCH_LATENCY_S)
    fetch_s: float = _FETCH_LATENCY_S + entry.size_bytes / _FETCH_BYTES_PER_S
    risk: float = _FETCH_RISK**entry.copies
    return fetch_s + risk * compile_s


def _worth(entry: Entry, now: float, *, by_size: bool) -> float:
    """What keeping it is likely to save, for each byte (or entry) that it takes."""
    hope: float = max(now - entry.used_at, _SHORTEST_IDLE_S) ** -_FADING
    return hope * cost_to_get_back_s(entry) / (max(entry.size_bytes, 1) if by_size else 1)


def _version(name: ModuleName) -> tuple[int, ...]:
    """The compiler's version, comparable; its commit says nothing about age."""
    return tuple(int(number) for number in _NUMBER.findall(name.namespace.partition("+")[0]))
