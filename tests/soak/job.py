"""What a trainer of the soak is told when it starts, and the two orders that it gets later."""

from __future__ import annotations

import dataclasses
import json
import random
from dataclasses import dataclass
from pathlib import Path

# One graph more every so many seconds, whoever meets it first: what an hour's commits can carry.
GAP_S = 4.0
# One graph in five is everybody's at once, the others begin on one host. Half of these come to the rest by the Hub; the
# other half nobody else ever meets, so that nobody else makes up for one that is lost.
_HOMES = ("a", "b", "c", "witness")
_FRESH, _LATE = 0.35, 0.7
_LATE_COUNT = 30


@dataclass(frozen=True)
class Job:
    """One life of one trainer.

    Attributes:
        host: name of the host that it works on.
        cache: the host's cache directory.
        began_s: when the soak began, monotonic seconds.
        home_s: after how long a graph is met on other hosts than its first.
        sweep: graphs to meet one after another and then end; None: whatever comes, until told to end.
        length_s: after how long it ends by itself; None: never.
    """

    who: str
    host: str
    cache: str
    records: str
    orders: str
    work: str
    parent: int
    began_s: float
    home_s: float
    seed: str
    sweep: list[int] | None = None
    length_s: float | None = None

    def encode(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def parse(cls, text: str) -> Job:
        return cls(**json.loads(text))

    def is_told(self, order: str) -> bool:
        """Whether there is this order: `end` or `rest`."""
        return (Path(self.orders) / order).exists()


def graphs_so_far(elapsed_s: float) -> int:
    """How many graphs there are, so long after the beginning."""
    return int(elapsed_s / GAP_S) + 1


def choose(chance: random.Random, job: Job, elapsed_s: float) -> int:
    """The graph that a trainer meets next: a fresh one, a late one, or any."""
    newest = graphs_so_far(elapsed_s) - 1
    dice = chance.random()
    if dice < _FRESH:
        number = max(0, newest - chance.randrange(3))
        if _is_at_home(number, job.host):
            return number
    newest_shared = max(0, graphs_so_far(elapsed_s - job.home_s) - 1)
    among = newest_shared + 1 if dice >= _LATE else _LATE_COUNT
    number = max(0, newest_shared - chance.randrange(among))
    return number if is_shared(number) else choose(chance, job, elapsed_s)


def is_shared(number: int) -> bool:
    """Whether a graph is met on more hosts than its first."""
    group, home = divmod(number, len(_HOMES) + 1)
    return home == len(_HOMES) or group % 2 == 0


def _is_at_home(number: int, host: str) -> bool:
    home = number % (len(_HOMES) + 1)
    return home == len(_HOMES) or _HOMES[home] == host
