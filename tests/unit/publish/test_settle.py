"""Settling against a model, with a clock that only the test moves."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from neff.keys import ModuleName
from neffd.publish.settle import Settling
from tests.harness import entries
from tests.unit.clock import Clock

SETTLE_S = 2.0
NAMES = st.integers(0, 4).map(entries.module)
# Quarters of a second, so that the model need not care for rounding.
SECONDS = st.integers(0, 40).map(lambda quarters: quarters / 4)


@dataclass
class Expected:
    looks: int
    since: float
    looked_at: float
    is_ready: bool


class SettlingMachine(RuleBasedStateMachine):
    """Shows entries as they might look, and keeps what must be known of them."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.settling = Settling(SETTLE_S, self.clock)
        self.model: dict[ModuleName, Expected] = {}

    @rule(name=NAMES, looks=st.integers(0, 1), is_ready=st.booleans(), extra_s=st.sampled_from([0.0, 0.0, 60.0]))
    def saw(self, name: ModuleName, looks: int, is_ready: bool, extra_s: float) -> None:
        known = self.model.get(name)
        if known is None or known.looks != looks:
            known = self.model[name] = Expected(looks, self.clock(), self.clock(), is_ready)
            expected = False
        else:
            expected = is_ready and self.clock() - known.since >= SETTLE_S + extra_s
        known.looked_at, known.is_ready = self.clock(), is_ready
        assert self.settling.saw(name, looks, is_ready=is_ready, extra_s=extra_s) is expected

    @rule(name=NAMES)
    def drop(self, name: ModuleName) -> None:
        self.settling.drop(name)
        self.model.pop(name, None)

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        before = self.settling.due_in_s
        self.clock.pass_s(seconds)
        if before is not None:
            assert (self.settling.due_in_s == 0) is (seconds >= before)

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert self.settling.ready_count == sum(known.is_ready for known in self.model.values())
        due = self.settling.due()
        assert len(due) == len(set(due))
        assert set(due) <= set(self.model)
        assert bool(due) is (self.settling.due_in_s == 0)
        for name, known in self.model.items():
            waited_s = self.clock() - known.looked_at
            if waited_s < 0.5:
                assert name not in due, "not more often than twice a second"
            elif known.is_ready or waited_s >= 0.01 * (known.looked_at - known.since):
                assert name in due, "soon after it may have changed"


TestSettling = SettlingMachine.TestCase
TestSettling.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_an_entry_that_stays_unfinished_is_looked_at_ever_more_seldom() -> None:
    clock = Clock()
    settling = Settling(SETTLE_S, clock)
    settling.saw(entries.module(0), "compiling", is_ready=False)
    looks = 0
    while clock() < 1000 + 24 * 3600:
        due_in_s = settling.due_in_s
        assert due_in_s is not None
        clock.pass_s(due_in_s)
        settling.saw(entries.module(0), "compiling", is_ready=False)
        looks += 1
    assert looks < 1000


def test_a_ready_entry_settles_however_long_that_is_configured_to_take() -> None:
    clock = Clock()
    settling = Settling(600.0, clock)
    settling.saw(entries.module(0), "ready", is_ready=True)
    while clock() < 1600:
        due_in_s = settling.due_in_s
        assert due_in_s is not None
        assert due_in_s <= 0.5
        clock.pass_s(due_in_s)
        if settling.saw(entries.module(0), "ready", is_ready=True):
            break
    assert clock() == 1600
