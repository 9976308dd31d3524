"""Which modules a run used, in which order, and how each came: any order of events."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from neffd.runs import recorder
from neffd.runs.identity import Identity
from neffd.runs.recorder import ASKED, COMPILED, FETCHED, LOCAL, PREFETCHED, Recorder, Run
from tests.harness import entries
from tests.unit.clock import Clock

ROOT = "/cache"
NAME, OTHER = entries.module(1), entries.module(2)


class Recorded:
    """A recorder with its clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.recorder = Recorder(self.clock, lambda: 1e9 + self.clock())

    def joined(self, instance: str = "one", connection: int | None = None, run_key: str = "") -> Run:
        return self.recorder.joined(Identity(instance, run_key), connection)[0]


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def test_all_processes_of_an_instance_are_one_run(recorded: Recorded) -> None:
    first, is_new = recorded.recorder.joined(Identity("one"), 1)
    assert is_new
    assert recorded.recorder.joined(Identity("one"), 2) == (first, False)
    assert recorded.recorder.joined(Identity("two"), 3)[0] is not first
    assert first.connections == {1, 2}


def test_a_launcher_that_comes_later_names_the_run(recorded: Recorded) -> None:
    run = recorded.joined(run_key="RUN_a")
    again, is_new = recorded.recorder.joined(Identity("one", "RUN_b"))
    assert (again, is_new, run.identity.run_key) == (run, True, "RUN_b")
    recorded.recorder.used(run, ROOT, NAME, LOCAL)
    assert recorded.recorder.joined(Identity("one", "RUN_c")) == (run, False)
    assert run.identity.run_key == "RUN_b"


@pytest.mark.parametrize("how", [LOCAL, FETCHED, PREFETCHED])
def test_what_was_asked_for_and_came_counts_as_it_came(recorded: Recorded, how: str) -> None:
    run = recorded.joined()
    assert recorded.recorder.used(run, ROOT, NAME, ASKED)
    assert recorded.recorder.used(run, ROOT, NAME, how)
    assert not recorded.recorder.used(run, ROOT, NAME, ASKED)
    assert run.modules[NAME].how == how


def test_a_compile_counts_for_every_run_that_asked(recorded: Recorded) -> None:
    asked, local, fetched = (recorded.joined(name) for name in ("asked", "local", "fetched"))
    recorded.recorder.used(asked, ROOT, NAME, ASKED)
    recorded.recorder.used(local, ROOT, NAME, LOCAL)
    recorded.recorder.used(fetched, ROOT, NAME, FETCHED, compile_s=7.0)
    recorded.recorder.compiled(ROOT, NAME, 5.0)
    recorded.recorder.compiled("/elsewhere", NAME, 9.0)
    assert [(run.modules[NAME].how, run.modules[NAME].compile_s) for run in (asked, local, fetched)] == [
        (COMPILED, 5.0),
        (COMPILED, 5.0),
        (FETCHED, 7.0),
    ]
    assert fetched.counts()["saved_s"] == 7.0
    assert asked.counts()["saved_s"] == 0.0


def test_a_run_ends_when_nobody_is_there_and_nothing_is_heard(recorded: Recorded) -> None:
    run = recorded.joined(connection=1)
    recorded.clock.pass_s(2 * recorder.IDLE_S)
    assert recorded.recorder.over() == []
    recorded.recorder.left(run, 1)
    recorded.clock.pass_s(recorder.IDLE_S / 2)
    assert recorded.recorder.over() == []
    recorded.clock.pass_s(recorder.IDLE_S)
    assert recorded.recorder.over() == [run]
    recorded.recorder.end(run)
    assert list(recorded.recorder) == []
    assert recorded.joined() is not run


def test_what_a_run_has_met_is_told_while_it_goes_on_but_not_all_the_time(recorded: Recorded) -> None:
    run = recorded.joined(connection=1)
    recorded.clock.pass_s(2 * recorder.OFFER_EVERY_S)
    assert recorded.recorder.grown() == []
    recorded.recorder.used(run, ROOT, NAME, LOCAL)
    assert recorded.recorder.grown() == [run]
    run.offered, run.offered_s = 1, recorded.clock()
    recorded.recorder.used(run, ROOT, OTHER, LOCAL)
    assert recorded.recorder.grown() == []
    recorded.clock.pass_s(2 * recorder.OFFER_EVERY_S)
    assert recorded.recorder.grown() == [run]


def test_runs_and_modules_are_bounded(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MAX_RUNS", 3)
    monkeypatch.setattr(recorder, "MAX_MODULES", 2)
    runs = []
    for number in range(5):
        recorded.clock.pass_s(1)
        runs.append(recorded.joined(str(number), connection=number if number == 0 else None))
    assert recorded.recorder.over() == runs[1:3]
    for run in recorded.recorder.over():
        recorded.recorder.end(run)
    assert recorded.recorder.over() == []
    assert [recorded.recorder.used(runs[0], ROOT, entries.module(number), LOCAL) for number in range(3)] == [
        True,
        True,
        False,
    ]


def test_all_runs_together_are_bounded(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MAX_ALL_MODULES", 5)  # of which one user has half
    recorded = Recorded()
    first, second = recorded.joined("first"), recorded.joined("second")
    for run in (first, second):
        for number in (1, 2):
            recorded.recorder.used(run, ROOT, entries.module(number), LOCAL)
    assert (len(first.modules), len(second.modules)) == (2, 1)
    recorded.recorder.end(first)
    recorded.recorder.used(first, ROOT, OTHER, FETCHED)  # a rank that is late
    assert recorded.recorder.used(second, ROOT, OTHER, LOCAL)
    again = Recorder(recorded.clock, recorded.clock)
    again.resume([second])
    assert not [again.used(second, ROOT, entries.module(number), LOCAL) for number in (7, 8)][1]
    stranger, _ = again.joined(Identity("third", uid=7))
    assert again.used(stranger, ROOT, NAME, LOCAL), "others have theirs"


def test_a_user_with_many_runs_loses_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MAX_RUNS", 4)
    recorded = Recorded()
    modest = Identity("modest", uid=2)
    runs = [recorded.recorder.joined(modest)[0]]
    for number in range(8):
        recorded.clock.pass_s(1)
        assert recorded.recorder.may_join(Identity(str(number), uid=1))
        runs.append(recorded.recorder.joined(Identity(str(number), uid=1))[0])
    assert not recorded.recorder.may_join(Identity("one more", uid=1)), "until some have gone"
    assert recorded.recorder.may_join(Identity("0", uid=1))
    assert recorded.recorder.may_join(Identity("one more", uid=2))
    assert recorded.recorder.over() == runs[1:6]
    for run in runs[1:6]:
        recorded.recorder.end(run)
    assert recorded.recorder.may_join(Identity("one more", uid=1))
    assert recorded.recorder.over() == []


def test_a_long_manifest_is_told_more_seldom(recorded: Recorded) -> None:
    run = recorded.joined(connection=1)
    for number in range(1000):
        recorded.recorder.used(run, ROOT, entries.module(number), LOCAL)
    recorded.clock.pass_s(2 * recorder.OFFER_EVERY_S)
    assert recorded.recorder.grown() == []
    recorded.clock.pass_s(2 * recorder.OFFER_EVERY_S)
    assert recorded.recorder.grown() == [run]


def test_who_says_that_a_model_is_private_is_believed_whoever_it_is(recorded: Recorded) -> None:
    run = recorded.joined(run_key="RUN_a")
    recorded.recorder.used(run, ROOT, NAME, LOCAL)
    run.changed, run.is_written = set(), True
    again, is_new = recorded.recorder.joined(Identity("one", "RUN_b", is_private=True))
    assert (again, is_new) == (run, False)
    assert run.identity == Identity("one", "RUN_a", is_private=True)
    assert (run.changed, run.is_written) == ({NAME}, False)
    recorded.recorder.joined(Identity("one", "RUN_a"))
    assert run.identity.is_private


def test_a_run_that_goes_on_for_weeks_is_written_down_now_and_then(recorded: Recorded) -> None:
    server, silent = recorded.joined("server", connection=1), recorded.joined("silent")
    server.is_written = silent.is_written = True
    recorded.recorder.note_presence()
    assert server.is_written
    recorded.clock.pass_s(3600)
    recorded.recorder.note_presence()
    assert (server.is_written, silent.is_written) == (False, True)
    assert recorded.recorder.recent(60) == [server]
    recorded.recorder.left(server, 1)
    assert recorded.recorder.recent(60) == [server]
    recorded.clock.pass_s(61)
    assert recorded.recorder.recent(60) == []


class Machine(RuleBasedStateMachine):
    """Against a model that knows only the order of first use."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded = Recorded()
        self.order: dict[str, list[int]] = {}

    @rule(
        instance=st.sampled_from(["a", "b"]),
        number=st.integers(0, 5),
        how=st.sampled_from([ASKED, LOCAL, FETCHED, PREFETCHED]),
    )
    def use(self, instance: str, number: int, how: str) -> None:
        self.recorded.recorder.used(self.recorded.joined(instance), ROOT, entries.module(number), how)
        order = self.order.setdefault(instance, [])
        if number not in order:
            order.append(number)

    @rule(number=st.integers(0, 5))
    def compile(self, number: int) -> None:
        self.recorded.recorder.compiled(ROOT, entries.module(number), 1.0)

    @rule(instance=st.sampled_from(["a", "b"]))
    def end(self, instance: str) -> None:
        self.recorded.recorder.end(self.recorded.joined(instance))
        self.order.pop(instance, None)

    @invariant()
    def order_is_that_of_first_use(self) -> None:
        for run in self.recorded.recorder:
            names = sorted(run.modules, key=lambda name: run.modules[name].position)
            assert names == [entries.module(number) for number in self.order.get(run.identity.instance, [])]
            assert set(run.changed) <= set(names)


TestMachine = Machine.TestCase
