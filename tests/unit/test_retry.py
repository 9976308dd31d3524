"""Back-off against a model: within its bounds, never before the remote asked for it, reset by success."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from neffd.retry import Backoff
from tests.unit.clock import Clock

FIRST_S, LIMIT_S = 1.0, 60.0


class BackoffMachine(RuleBasedStateMachine):
    """Fails and succeeds in any order while time goes by."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.jitter = 0.0
        self.backoff = Backoff(FIRST_S, LIMIT_S, self.clock, jitter=lambda: self.jitter)
        self.failures_in_a_row = 0

    @rule(jitter=st.floats(0, 1), retry_after_s=st.none() | st.floats(0, 1000))
    def fail(self, jitter: float, retry_after_s: float | None) -> None:
        self.jitter = jitter
        self.backoff.failed(retry_after_s)
        ceiling_s = min(LIMIT_S, FIRST_S * 2 ** min(self.failures_in_a_row, 32))
        self.failures_in_a_row += 1
        asked_s = retry_after_s or 0.0
        assert max(ceiling_s / 2, asked_s) - 1e-6 <= self.backoff.wait_s <= max(ceiling_s, asked_s) + 1e-6

    @rule(times=st.integers(1, 50))
    def fail_often(self, times: int) -> None:
        for _ in range(times):
            self.fail(1.0, None)

    @rule()
    def succeed(self) -> None:
        self.backoff.succeeded()
        self.failures_in_a_row = 0
        assert self.backoff.wait_s == 0

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        before = self.backoff.wait_s
        self.clock.pass_s(seconds)
        assert self.backoff.wait_s == pytest.approx(max(0.0, before - seconds), abs=1e-6)

    @invariant()
    def counts_failures_in_a_row(self) -> None:
        assert self.backoff.failures == min(self.failures_in_a_row, 32)
        assert self.backoff.wait_s >= 0


TestBackoff = BackoffMachine.TestCase
TestBackoff.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


def test_default_jitter_spreads_hosts() -> None:
    clock = Clock()
    waits = set()
    for _ in range(20):
        backoff = Backoff(FIRST_S, LIMIT_S, clock)
        backoff.failed()
        waits.add(backoff.wait_s)
    assert len(waits) > 10
