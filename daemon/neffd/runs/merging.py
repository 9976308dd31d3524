"""Putting several orders of the same things together into one: a plain function."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence


def merged(orders: Sequence[Sequence[str]]) -> list[str]:
    """Everything in `orders`, each once, in an order that agrees with all of them where that is possible.

    Where they contradict each other, what comes earliest in any of them goes first. The order of `orders` does not
    matter. None may hold a thing twice. Time: n log n.
    """
    followers: dict[str, list[str]] = {}
    position: dict[str, int] = {}
    waits_for: Counter[str] = Counter()
    for order in orders:
        for number, name in enumerate(order):
            position[name] = min(number, position.get(name, number))
            followers.setdefault(name, [])
            if number:
                followers[order[number - 1]].append(name)
                waits_for[name] += 1
    free = [(position[name], name) for name in position if not waits_for[name]]
    # In a circle nobody is free: then the earliest goes.
    rest = sorted((place, name) for name, place in position.items())
    heapq.heapify(free)
    result: dict[str, None] = {}
    skipped = 0
    while len(result) < len(position):
        if free:
            name = heapq.heappop(free)[1]
        else:
            while rest[skipped][1] in result:
                skipped += 1
            name = rest[skipped][1]
        if name in result:
            continue
        result[name] = None
        for follower in followers[name]:
            waits_for[follower] -= 1
            if not waits_for[follower] and follower not in result:
                heapq.heappush(free, (position[follower], follower))
    return list(result)
