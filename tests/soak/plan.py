"""What happens when: every kill, stall, full disk, jump and fault of a run, drawn from one seed before it begins."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

_HOUR_S = 3600.0
# Everybody is up before the first kill.
_FIRST_AT_S = 5.0


class Kind(str, Enum):
    """Something that is done to a part of the soak."""

    KILL_DAEMON = "kill -9 a daemon"
    KILL_DAEMON_SENDING = "kill -9 a daemon that sends"
    KILL_WORKER = "kill -9 a daemon's worker"
    KILL_TRAINER = "kill -9 a trainer"
    KILL_COMPILER = "kill -9 a compiler"
    RESTART = "SIGTERM to a daemon"
    STALL = "SIGSTOP to a daemon"
    FILL_DISK = "disk full"
    JUMP_CLOCK = "clock jump"
    REMOVE = "rm of an entry"
    OUTAGE = "Hub down"
    FAULT = "fault of the Hub"


# Shares of the kills; of the rest how many an hour.
_KILLS = {
    Kind.KILL_DAEMON: 50,
    Kind.KILL_DAEMON_SENDING: 6,
    Kind.KILL_WORKER: 12,
    Kind.KILL_TRAINER: 20,
    Kind.KILL_COMPILER: 12,
}
_PER_HOUR = {
    Kind.RESTART: 30,
    Kind.STALL: 40,
    Kind.FILL_DISK: 24,
    Kind.JUMP_CLOCK: 40,
    Kind.REMOVE: 60,
    Kind.OUTAGE: 8,
    Kind.FAULT: 720,
}
KILLS_PER_HOUR = 300


@dataclass(frozen=True)
class Settings:
    """How long, how many kills, and the seed of everything random; how much the witness is made to leak, in an hour."""

    length_s: float
    kills: int
    seed: int
    leak_mb: float = 0.0

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Settings:
        """From SOAK_S, SOAK_KILLS, SOAK_SEED and SOAK_LEAK_MB; raises ValueError for what is no number."""
        length_s = float(environ.get("SOAK_S") or _HOUR_S)
        kills = int(environ.get("SOAK_KILLS") or max(1, round(KILLS_PER_HOUR * length_s / _HOUR_S)))
        seed = int(environ.get("SOAK_SEED") or random.SystemRandom().randrange(10**6))
        return cls(length_s, kills, seed, float(environ.get("SOAK_LEAK_MB") or 0.0))


@dataclass(frozen=True, order=True)
class Event:
    """One thing to do, so many seconds after the beginning."""

    at_s: float
    kind: Kind


def draw(settings: Settings) -> list[Event]:
    """All events of a run in order; exactly `settings.kills` of them are kills."""
    chance = random.Random(settings.seed)
    kinds = chance.choices(list(_KILLS), list(_KILLS.values()), k=settings.kills)
    for kind, per_hour in _PER_HOUR.items():
        # A short run has each of them at least once.
        kinds += [kind] * max(1, round(per_hour * settings.length_s / _HOUR_S))
    first_at_s = min(_FIRST_AT_S, settings.length_s / 10)
    return sorted(Event(chance.uniform(first_at_s, settings.length_s), kind) for kind in kinds)


def is_kill(kind: Kind) -> bool:
    """Whether a process ends by SIGKILL."""
    return kind in _KILLS
