"""The batcher against a model: nothing lost or doubled, every limit kept, nothing late."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from neffd.publish.batch import Batcher, Item, Limits
from tests.unit.clock import Clock

LIMITS = Limits(quiet_s=10, max_delay_s=60, max_bytes=1000, max_files=20)


class BatcherMachine(RuleBasedStateMachine):
    """Drives a batcher, and keeps in a plain dict what must be in it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.wall = Clock(), Clock(1e9)
        self.batcher = Batcher(LIMITS, self.clock, self.wall)
        self.model: dict[int, tuple[Item, float]] = {}
        self.newest_at = self.clock()
        self.is_flushing = False
        self.tried: dict[int, int] = {}
        self.batches = 0

    @rule(
        number=st.integers(0, 30),
        size_bytes=st.sampled_from([0, 1, 300, 999, 1000, 5000]),
        file_count=st.sampled_from([1, 5, 20, 50]),
        noted_ago_s=st.sampled_from([0.0, 0.0, 5.0, 59.0, 60.0, 1e9, -1e9]) | st.floats(-100, 100),
    )
    def add(self, number: int, size_bytes: int, file_count: int, noted_ago_s: float) -> None:
        queued_at = self.wall() - noted_ago_s
        item = self.model[number][0] if number in self.model else Item(number, size_bytes, file_count, queued_at)
        self.batcher.add(item)
        if number not in self.model:
            waited_s = min(max(noted_ago_s, 0.0), LIMITS.max_delay_s)
            self.model[number] = (item, self.clock() - waited_s)
            self.newest_at = self.clock()

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        before = self.batcher.due_in_s
        self._pass_s(seconds)
        after = self.batcher.due_in_s
        if before is None or after is None:
            assert before is after
        else:
            assert after == pytest.approx(max(0.0, before - seconds), abs=1e-6)

    def _pass_s(self, seconds: float) -> None:
        self.clock.pass_s(seconds)
        self.wall.pass_s(seconds)

    @rule(seconds=st.sampled_from([3600.0, -3600.0, 1e8, -1e8]))
    def set_the_wall_clock(self, seconds: float) -> None:
        self.wall.pass_s(seconds)

    @rule()
    def flush(self) -> None:
        self.batcher.flush()
        self.is_flushing = bool(self.model)
        assert self.batcher.due_in_s == (0.0 if self.model else None)

    @rule()
    def take(self) -> None:
        batch = self.batcher.take()
        in_turn = sorted(self.model, key=lambda number: (self.tried.get(number, 0), number))
        assert batch == [self.model[number][0] for number in in_turn][: len(batch)], "oldest first, those tried last"
        assert bool(batch) == bool(self.model)
        if len(batch) > 1:
            assert _bytes(batch) <= LIMITS.max_bytes
            assert _files(batch) <= LIMITS.max_files
        self.batches += 1
        for item in batch:
            del self.model[item.id]
        self.tried = {number: count for number, count in self.tried.items() if number in self.model}
        self.tried |= {item.id: self.batches for item in batch}
        if self.model:
            following = self.model[in_turn[len(batch)]][0]
            full = [*batch, following]
            assert _bytes(full) > LIMITS.max_bytes or _files(full) > LIMITS.max_files, "as much as fits"
        else:
            self.is_flushing = False

    @precondition(lambda self: self.model)
    @rule()
    def nothing_waits_longer_than_allowed(self) -> None:
        self._pass_s(LIMITS.max_delay_s)
        assert self.batcher.due_in_s == 0

    @invariant()
    def agrees_with_the_model(self) -> None:
        waiting = [item for item, _ in self.model.values()]
        assert len(self.batcher) == len(waiting)
        assert self.batcher.oldest_queued_at == min((item.queued_at for item in waiting), default=None)
        is_full = _bytes(waiting) >= LIMITS.max_bytes or _files(waiting) >= LIMITS.max_files
        due_in_s = self.batcher.due_in_s
        if not waiting:
            assert due_in_s is None
        elif is_full or self.is_flushing:
            assert due_in_s == 0
        else:
            oldest_at = min(added_at for _, added_at in self.model.values())
            due_at = min(self.newest_at + LIMITS.quiet_s, oldest_at + LIMITS.max_delay_s)
            assert due_in_s == pytest.approx(max(0.0, due_at - self.clock()), abs=1e-6)


def _bytes(items: list[Item]) -> int:
    return sum(item.size_bytes for item in items)


def _files(items: list[Item]) -> int:
    return sum(item.file_count for item in items)


TestBatcher = BatcherMachine.TestCase
TestBatcher.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_single_large_item_goes_alone() -> None:
    batcher = Batcher(LIMITS, Clock())
    items = [Item(1, 1, 1, 0.0), Item(2, 5000, 1, 0.0), Item(3, 1, 1, 0.0)]
    for item in items:
        batcher.add(item)
    assert [batcher.take() for _ in range(4)] == [[items[0]], [items[1]], [items[2]], []]


def test_in_a_hurry_what_cost_most_goes_first_in_small_batches() -> None:
    clock = Clock()
    wall = Clock(0.0)
    batcher = Batcher(Limits(quiet_s=10, max_delay_s=60, max_bytes=1 << 30, max_files=20), clock, wall)
    costs = {1: 5.0, 2: None, 3: 600.0, 4: 60.0}
    for number, compile_s in costs.items():
        batcher.add(Item(number, 20 << 20, 1, 0.0, compile_s))
    assert batcher.due_in_s == 10
    batcher.hurry()
    assert batcher.due_in_s == 0
    assert [[item.id for item in batcher.take()] for _ in costs] == [[3], [4], [1], [2]]
    batcher.add(Item(5, 1, 1, 0.0))
    assert batcher.due_in_s == 0, "what comes now waits for nothing either"


def test_nothing_to_hurry_with() -> None:
    batcher = Batcher(LIMITS, Clock())
    batcher.hurry()
    assert batcher.due_in_s is None
    assert batcher.take() == []


def test_what_waited_in_earlier_lives_need_not_wait_again() -> None:
    """With a restart every five seconds, and always something new, nothing would ever go."""
    clock, wall = Clock(), Clock(1e9)
    items = []
    for life in range(1, 14):
        batcher = Batcher(LIMITS, clock, wall)
        items.append(Item(life, 1, 1, wall()))
        for item in items:
            batcher.add(item)
        assert batcher.due_in_s == pytest.approx(min(10.0, 65.0 - 5.0 * life))
        clock.pass_s(5.0)
        wall.pass_s(5.0)


def test_what_could_not_be_sent_is_as_old_as_before_and_keeps_nothing_else_back() -> None:
    clock, wall = Clock(), Clock(1e9)
    batcher = Batcher(LIMITS, clock, wall)
    batcher.add(old := Item(1, 1, 1, wall()))
    clock.pass_s(60.0)
    wall.pass_s(60.0)
    assert batcher.take() == [old]
    batcher.add(new := Item(2, 1, 1, wall()))
    batcher.add(old)
    assert batcher.due_in_s == 0
    assert batcher.take() == [new, old]
