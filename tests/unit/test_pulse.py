"""Who is silent for too long, and who only stood still with everybody else."""

from __future__ import annotations

import pytest

from neffd.pulse import Finding, Limits, Piecework, Pulse, What
from tests.unit.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pulse(clock: Clock) -> Pulse:
    pulse = Pulse(clock, look_every_s=1.0)
    pulse.expect("loop", Limits(10.0, 25.0))
    return pulse


def look_for(pulse: Pulse, clock: Clock, seconds: int, beats: bool = False) -> list[Finding]:
    found = []
    for _ in range(seconds):
        clock.pass_s(1.0)
        if beats:
            pulse.beat("loop")
        found += pulse.look()
    return found


def test_signs_of_life_are_nothing_to_tell(pulse: Pulse, clock: Clock) -> None:
    assert look_for(pulse, clock, 100, beats=True) == []


def test_silence_is_told_once_and_so_is_its_end(pulse: Pulse, clock: Clock) -> None:
    assert look_for(pulse, clock, 9) == []
    assert look_for(pulse, clock, 10) == [Finding("loop", What.SILENT, 10.0)]
    pulse.beat("loop")
    assert look_for(pulse, clock, 5) == [Finding("loop", What.BACK, 19.0)]


def test_too_long_is_told_every_time(pulse: Pulse, clock: Clock) -> None:
    found = look_for(pulse, clock, 27)
    assert [finding.what for finding in found] == [What.SILENT, What.TOO_LONG, What.TOO_LONG, What.TOO_LONG]


def test_a_part_without_an_end_is_never_given_up(pulse: Pulse, clock: Clock) -> None:
    pulse.forget("loop")
    pulse.expect("scan", Limits(10.0))
    assert [finding.what for finding in look_for(pulse, clock, 1000)] == [What.SILENT]


def test_what_stood_still_with_everybody_else_has_not_been_silent(pulse: Pulse, clock: Clock) -> None:
    look_for(pulse, clock, 5)
    clock.pass_s(3600.0)  # the machine slept, or we were stopped
    assert pulse.look() == []
    assert look_for(pulse, clock, 4) == []
    assert [finding.what for finding in look_for(pulse, clock, 1)] == [What.SILENT], "and nothing is forgotten"


def test_what_is_forgotten_may_be_silent(pulse: Pulse, clock: Clock) -> None:
    pulse.forget("loop")
    assert look_for(pulse, clock, 100) == []


def look_at(work: Piecework, clock: Clock, busy_since: float | None, seconds: int) -> list[What]:
    found = []
    for _ in range(seconds):
        clock.pass_s(1.0)
        finding = work.look(busy_since)
        found += [finding.what] if finding is not None else []
    return found


def test_a_piece_of_work_that_takes_too_long_is_told_once_and_so_is_its_end(clock: Clock) -> None:
    work = Piecework(10.0, clock, look_every_s=1.0)
    assert look_at(work, clock, clock(), 10) == []
    assert look_at(work, clock, clock() - 10, 50) == [What.SILENT]
    assert look_at(work, clock, clock(), 5) == [What.BACK], "the next piece"


def test_work_of_many_pieces_and_none_at_all_may_take_as_long_as_they_like(clock: Clock) -> None:
    work = Piecework(10.0, clock, look_every_s=1.0)
    assert look_at(work, clock, None, 100) == []
    assert [look_at(work, clock, clock(), 9) for _ in range(20)] == [[]] * 20


def test_a_piece_during_which_all_stood_still_is_not_at_fault(clock: Clock) -> None:
    work = Piecework(10.0, clock, look_every_s=1.0)
    began_at = clock()
    look_at(work, clock, began_at, 5)
    clock.pass_s(3600.0)
    assert look_at(work, clock, began_at, 4) == []
    assert look_at(work, clock, began_at, 4) == [What.SILENT]
