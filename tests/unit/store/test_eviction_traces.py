"""The choice on generated traces of two months: no trainer waits longer than with plain LRU."""

from __future__ import annotations

import random

import pytest

from neffd.store.eviction import Limits
from tests.bench import eviction


@pytest.mark.parametrize("title", ["teams", "sweeps", "upgrade", "unshared"])
def test_no_more_waiting_than_with_lru(title: str) -> None:
    trace = eviction.trace(title)
    limits = Limits(max_bytes=int(eviction.total_bytes(trace) * 0.3), high=1.0, low=0.9)
    by_value, _ = eviction.replay(trace, limits, eviction.by_value)
    lru, _ = eviction.replay(trace, limits, eviction.lru)
    assert by_value <= lru


def test_a_trace_is_the_same_every_time() -> None:
    assert eviction.trace("teams") == eviction.trace("teams")
    assert eviction.trace("teams") != list(eviction.TRACES["teams"](random.Random(1)))
