"""What a limited cache costs its trainers: the daemon's choice of what goes beside plain LRU, on generated traces.

A trace is two months of runs; a run asks for all of its graphs. What is not there is fetched, or compiled where no
remote holds it, or where the remote fails (one time in fifty). Every trace is made from a fixed seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from neff.keys import ModuleName
from neffd.store.eviction import Entry, Goal, Limits, Policy, select
from tests.bench.measure import Figure

_DAY_S = 86_400.0
_DAYS = 60
_SHARES = (0.1, 0.3, 0.6)
_FETCH_BYTES_PER_S = 40e6
_FETCH_LATENCY_S = 0.4
_FAILS = 0.02

Use = tuple[float, Entry]
Choose = Callable[[list[Entry], Goal, float], Iterable[Entry]]


def bench_eviction(folder: Path) -> list[Figure]:
    """Hours of waiting, and the share of bytes that were there, at three sizes of the cache."""
    figures = []
    for title in TRACES:
        uses = trace(title)
        for share in _SHARES:
            limits = Limits(max_bytes=int(total_bytes(uses) * share), high=1.0, low=0.9)
            for how, choose in {"by value": by_value, "LRU": lru}.items():
                waited_s, hit = replay(uses, limits, choose)
                what = f"eviction, {title}, room for {share:.0%}, {how}"
                figures += [
                    Figure(f"{what}: waiting", waited_s / 3600, "h"),
                    Figure(f"{what}: bytes hit", 100 * hit, "%"),
                ]
    return figures


def trace(title: str) -> list[Use]:
    """One of TRACES, in the order of time."""
    return sorted(TRACES[title](random.Random(title)), key=lambda use: (use[0], use[1].name))


def total_bytes(uses: list[Use]) -> int:
    """The size of everything that is ever used."""
    return sum({entry.name: entry.size_bytes for _, entry in uses}.values())


def by_value(entries: list[Entry], goal: Goal, now: float) -> Iterable[Entry]:
    """As the daemon chooses."""
    return select(entries, goal, Policy(evict_unshared=True), now).remove


def lru(entries: list[Entry], goal: Goal, now: float) -> Iterable[Entry]:
    """What was not used for longest."""
    freed_bytes = 0
    for entry in sorted(entries, key=lambda entry: (entry.used_at, entry.name)):
        if freed_bytes >= goal.size_bytes:
            return
        freed_bytes += entry.size_bytes
        yield entry


def replay(uses: list[Use], limits: Limits, choose: Choose) -> tuple[float, float]:
    """Seconds of waiting after first times, and the share of bytes that were there."""
    chance = random.Random(0)
    here: dict[ModuleName, Entry] = {}
    known: set[ModuleName] = set()
    held_bytes = hit_bytes = asked_bytes = 0
    waited_s = 0.0
    for at, entry in uses:
        fails = chance.random() < _FAILS
        if entry.name in known:
            asked_bytes += entry.size_bytes
            if entry.name in here:
                hit_bytes += entry.size_bytes
            elif entry.copies and not fails:
                waited_s += _FETCH_LATENCY_S + entry.size_bytes / _FETCH_BYTES_PER_S
            else:
                waited_s += entry.compile_s or 0.0
        known.add(entry.name)
        held_bytes += 0 if entry.name in here else entry.size_bytes
        here[entry.name] = replace(entry, used_at=at)
        goal = limits.goal(held_bytes, len(here), 0)
        if goal:
            for gone in choose(list(here.values()), goal, at):
                held_bytes -= here.pop(gone.name).size_bytes
    return waited_s, hit_bytes / max(asked_bytes, 1)


def _graphs(chance: random.Random, number: int, version: str = "2.20.1.0", shared: float = 1.0) -> list[Entry]:
    """The graphs of one project: a few large ones that compile for long, many small ones."""
    graphs = []
    for _ in range(int(chance.lognormvariate(math.log(25), 0.7)) + 2):
        size_bytes = int(min(chance.lognormvariate(math.log(2e6), 1.3), 4e8))
        compile_s = min(size_bytes / 2e6 * chance.lognormvariate(math.log(40), 0.8), 7200)
        name = ModuleName(f"neuronxcc-{version}+00000000", f"MODULE_{number}{chance.randrange(10**12):012d}+d7517139")
        copies = 1 if chance.random() < shared else 0
        graphs.append(Entry(name, size_bytes, 0.0, compile_s, copies))
    return graphs


def _runs(chance: random.Random, graphs: list[Entry], every_s: float, from_s: float, to_s: float) -> Iterator[Use]:
    at = from_s + chance.random() * every_s
    while at < to_s:
        yield from ((at + 0.1 * position, graph) for position, graph in enumerate(graphs))
        at += chance.expovariate(1 / every_s)


def _teams(chance: random.Random, shared: float = 1.0) -> Iterator[Use]:
    """Projects that run again and again, some hourly, most now and then."""
    for number in range(25):
        every_s = _DAY_S * chance.choice([0.25, 1, 1, 3, 7, 14])
        yield from _runs(chance, _graphs(chance, number, shared=shared), every_s, 0, _DAYS * _DAY_S)


def _sweeps(chance: random.Random) -> Iterator[Use]:
    """The same, and every day graphs that nobody wants again."""
    yield from _teams(chance)
    for number in range(3 * _DAYS):
        at = chance.random() * _DAYS * _DAY_S
        yield from ((at, graph) for graph in _graphs(chance, 1000 + number))


def _upgrade(chance: random.Random) -> Iterator[Use]:
    """A new compiler after half of the time; a fifth of the projects stay with the old one."""
    half_s, end_s = _DAYS * _DAY_S / 2, _DAYS * _DAY_S
    for number in range(25):
        every_s = _DAY_S * chance.choice([0.25, 1, 1, 3, 7])
        stays = number % 5 == 0
        yield from _runs(chance, _graphs(chance, number), every_s, 0, end_s if stays else half_s)
        if not stays:
            yield from _runs(chance, _graphs(chance, 100 + number, "2.21.5.0"), every_s, half_s, end_s)


def _unshared(chance: random.Random) -> Iterator[Use]:
    """A third of the graphs are on no remote, and may go nevertheless."""
    yield from _teams(chance, shared=0.67)


TRACES: dict[str, Callable[[random.Random], Iterator[Use]]] = {
    "teams": _teams,
    "sweeps": _sweeps,
    "upgrade": _upgrade,
    "unshared": _unshared,
}
