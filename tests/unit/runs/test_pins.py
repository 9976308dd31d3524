"""What runs hold in the cache directories: a bounded number of modules of each user, those used last first."""

from __future__ import annotations

import pytest

from neffd.limits import PINS
from neffd.runs import pins
from neffd.runs.identity import Identity
from neffd.runs.pins import Pins
from neffd.runs.recorder import LOCAL, Recorder, Run
from tests.harness import entries
from tests.unit.clock import Clock


class Host:
    def __init__(self) -> None:
        self.clock = Clock()
        self.recorder = Recorder(self.clock, self.clock)
        self.met: list[tuple[str, int]] = []
        self.pins = Pins(600.0, self.clock, lambda reason, uid: self.met.append((reason, uid)))

    def run(self, instance: str, *numbers: int, uid: int = 1) -> Run:
        self.clock.pass_s(1)
        run, _ = self.recorder.joined(Identity(instance, uid=uid))
        for number in numbers:
            self.recorder.used(run, "/cache", entries.module(number), LOCAL)
        return run

    def end(self, run: Run) -> None:
        self.recorder.end(run)
        self.pins.ended(run)

    def pinned(self) -> set[int]:
        names = self.pins.names(self.recorder.recent(600.0))
        return {number for number in range(20) if entries.module(number) in names}


def test_of_one_user_what_was_used_last_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "MAX_PINS", 4)
    host = Host()
    host.run("old", 1, 2, 3)
    host.run("others", 4, 5, 6, 7, uid=2)
    assert host.pinned() == {1, 2, 3, 4, 5, 6, 7}
    assert host.met == []
    host.run("new", 8, 9)
    assert host.pinned() == {4, 5, 6, 7, 8, 9}
    assert host.met == [(PINS, 1)]


def test_whoever_has_the_most_runs_that_have_ended_loses_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "MAX_ENDED", 3)
    host = Host()
    host.end(host.run("others", 1, uid=2))
    for number in range(2, 6):
        host.end(host.run(str(number), number))
    assert host.pinned() == {1, 4, 5}
    host.clock.pass_s(601)
    assert host.pinned() == set()
