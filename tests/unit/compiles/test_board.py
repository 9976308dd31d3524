"""Who holds and who waits, as a state machine against a plain model of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from neff.keys import LockId
from neffd.compiles.board import Board, Holder, Place, TooManyWaiters, Waiter
from tests.harness import entries
from tests.unit.clock import Clock

PLACES = [Place(root, entries.module(number)) for root in ("/a", "/b") for number in (1, 2)]
MOST = 3

places = st.sampled_from(PLACES)
pids = st.integers(1, 3)
uids = st.sampled_from([0, 1000])


class Boards(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.board = Board(MOST, self.clock)
        self.holders: dict[Place, tuple[int, bool]] = {}
        self.waiters: list[Waiter] = []
        self.woken: Counter[int] = Counter()

    @rule(place=places, pid=pids)
    def took(self, place: Place, pid: int) -> None:
        self.board.took(place, Holder(pid, 0, LockId(1, 1), self.clock(), connection=pid))
        self.holders[place] = (pid, False)

    @rule(place=places)
    def released(self, place: Place) -> None:
        before = self.woken.copy()
        holder = self.board.released(place)
        known = self.holders.pop(place, None)
        assert (holder and holder.pid) == (known and known[0])
        if known is not None:
            self._woken_are(place, before)

    @rule(pid=pids)
    def died(self, pid: int) -> None:
        theirs = {place for place, (holder, _) in self.holders.items() if holder == pid}
        assert set(self.board.died(pid)) == theirs
        self.holders |= {place: (pid, True) for place in theirs}

    @rule(pid=pids)
    def disconnected(self, pid: int) -> None:
        self.board.disconnected(pid)
        assert all(holder.connection != pid for _, holder in self.board.held())

    @rule(place=places, uid=uids)
    def wait(self, place: Place, uid: int) -> None:
        number = len(self.woken)
        self.woken[number] = 0
        mine = sum(waiter.uid == uid for waiter in self.waiters)
        if mine >= MOST:
            with pytest.raises(TooManyWaiters):
                self.board.wait(place, uid, lambda: None)
            return

        def wake() -> None:
            self.woken[number] += 1

        waiter = self.board.wait(place, uid, wake)
        self.waiters.append(waiter)
        self.numbers = {**getattr(self, "numbers", {}), id(waiter): number}

    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        if self.waiters:
            waiter = data.draw(st.sampled_from(self.waiters))
            self.waiters.remove(waiter)
            self.board.leave(waiter)
            self.board.leave(waiter)  # once more does nothing

    @rule(place=places)
    def wake(self, place: Place) -> None:
        before = self.woken.copy()
        self.board.wake(place)
        self._woken_are(place, before)

    def _woken_are(self, place: Place, before: Counter[int]) -> None:
        there = {self.numbers[id(waiter)] for waiter in self.waiters if waiter.place == place}
        assert {number for number in self.woken if self.woken[number] > before[number]} == there

    @invariant()
    def agrees(self) -> None:
        assert {place: (holder.pid, holder.is_gone) for place, holder in self.board.held()} == self.holders
        for place in PLACES:
            assert self.board.waiting(place) == sum(waiter.place == place for waiter in self.waiters)
        assert set(self.board.places()) == set(self.holders) | {waiter.place for waiter in self.waiters}
        for pid in (1, 2, 3):
            assert self.board.holds_any(pid) == any(holder == pid for holder, _ in self.holders.values())


TestBoards = Boards.TestCase


def test_how_long_a_lock_is_held() -> None:
    clock = Clock()
    board = Board(MOST, clock)
    holder = Holder(1, 0, LockId(1, 1), clock())
    board.took(PLACES[0], holder)
    clock.pass_s(5)
    assert board.age_s(holder) == 5
