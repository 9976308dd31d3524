from __future__ import annotations

from neff.backoff import BackOff


def test_without_failures_everyone_is_admitted() -> None:
    backoff = BackOff()
    assert all(backoff.admits(0.0) for _ in range(100))


def test_one_attempt_a_period_and_periods_double_to_a_limit() -> None:
    backoff = BackOff()
    now_s, periods_s = 0.0, []
    assert backoff.admits(now_s)
    for _ in range(7):
        backoff.failed(now_s, now_s)
        failed_s = now_s
        while not backoff.admits(now_s):
            now_s += 1.0
        assert not backoff.admits(now_s)
        periods_s.append(now_s - failed_s)
    assert periods_s == [10, 20, 40, 80, 160, 300, 300]


def test_attempts_side_by_side_fail_as_one() -> None:
    backoff = BackOff()
    for _ in range(8):
        backoff.failed(0.0, 3.0)
    assert not backoff.admits(12.9)
    assert backoff.admits(13.0)


def test_an_attempt_that_never_ends_uses_up_its_period_only() -> None:
    backoff = BackOff()
    backoff.failed(0.0, 0.0)
    assert backoff.admits(10.0)
    assert not backoff.admits(19.9)
    assert backoff.admits(20.0)


def test_success_forgets_the_failures() -> None:
    backoff = BackOff()
    backoff.failed(0.0, 0.0)
    backoff.failed(10.0, 10.0)
    backoff.succeeded()
    assert backoff.admits(10.1)
    assert backoff.admits(10.1)
    backoff.failed(11.0, 11.0)
    assert backoff.admits(21.0)
