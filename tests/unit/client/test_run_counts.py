"""What is noted in a `neff run`, and how it is added up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neff import tally
from neff.keys import ModuleName
from neff.launch import counts
from neff.launch.counts import Counts
from neff.tally import COMPILED, FETCHED, LOCAL, MISSED, WAITED, Event, Tally

NAMESPACE = "neuronxcc-2.20.9961.0+0acef03a"
ROOT = "/var/tmp/neuron-compile-cache"


def module(number: int) -> ModuleName:
    return ModuleName(NAMESPACE, f"MODULE_{number}+e30acd3a")


EVENTS = st.builds(
    Event,
    st.sampled_from([LOCAL, FETCHED, COMPILED, WAITED, MISSED]),
    st.sampled_from([ROOT, "/other", "/odd \udcff\n\u2028path"]),
    st.builds(module, st.integers(0, 3)),
    st.none() | st.integers(0, 10_000).map(lambda thousandths: thousandths / 1000),
)
GARBAGE = st.one_of(
    st.binary(max_size=40),
    st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5).map(
        lambda value: repr(value).encode()
    ),
    st.fixed_dictionaries(
        {name: st.sampled_from([1, None, "x", []]) for name in ("event", "root", "namespace", "key")}
    ).map(lambda fields: str(fields).replace("'", '"').encode()),
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def of(*processes: list[Event]) -> dict[str, float]:
    added = Counts()
    for events in processes:
        added.add(b"".join(map(tally.encode, events)))
    return added.as_dict()


@given(EVENTS)
def test_a_line_is_read_as_it_was_written(event: Event) -> None:
    line = tally.encode(event)
    assert line[:1] == line[-1:] == b"\n"
    assert tally.decode(line) == event


@given(st.lists(EVENTS, max_size=8), st.lists(GARBAGE, max_size=4), st.data())
def test_torn_lines_and_garbage_harm_nothing_but_themselves(
    events: list[Event], garbage: list[bytes], data: st.DataObject
) -> None:
    lines = [tally.encode(event) for event in events]
    expected = of(events)
    for rubbish in garbage:
        torn = rubbish if tally.decode(rubbish) is None else b"{"
        lines.insert(data.draw(st.integers(0, len(lines))), torn.replace(b"\n", b""))
    torn_end = tally.encode(Event(LOCAL, "/torn", module(9)))[:-4]
    added = Counts()
    added.add(b"".join(lines) + torn_end)
    assert added.as_dict() == expected


@given(st.lists(st.lists(EVENTS, max_size=6), max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_processes_does_not_matter(processes: list[list[Event]], random: Any) -> None:
    shuffled = list(processes)
    random.shuffle(shuffled)
    numbers = of(*processes)
    assert {name: pytest.approx(value) for name, value in of(*shuffled).items()} == numbers
    assert numbers["graphs"] == numbers[LOCAL] + numbers[FETCHED] + numbers[COMPILED]
    graphs = {
        (event.root, event.name) for events in processes for event in events if event.kind not in (WAITED, MISSED)
    }
    assert numbers["graphs"] == len(graphs)


def test_ranks_count_a_graph_once_as_the_most_that_was_done_for_it() -> None:
    name = module(1)
    local, fetched = Event(LOCAL, ROOT, name), Event(FETCHED, ROOT, name, 60.0)
    compiled, waited = Event(COMPILED, ROOT, name, 30.0), Event(WAITED, ROOT, name, 20.0)
    numbers = of([local], [waited, local], [waited, waited, local], [compiled], [fetched])
    assert numbers == {
        "graphs": 1,
        "local": 0,
        "fetched": 0,
        "compiled": 1,
        "waited_for": 1,
        "compiled_s": 30.0,
        "waited_s": 40.0,
        "saved_s": 0,
    }
    assert of([local], [fetched])["saved_s"] == 60.0
    assert of([local], [Event(LOCAL, "/other", name)])["graphs"] == 2


def test_every_module_that_was_looked_for_is_named_also_those_that_count_as_nothing() -> None:
    added = Counts()
    missed, compiled = Event(MISSED, ROOT, module(1)), Event(COMPILED, ROOT, module(2), 1.0)
    added.add(b"".join(map(tally.encode, [missed, Event(MISSED, ROOT, module(2)), compiled])))
    assert added.modules() == [
        {"name": str(module(1)), "root": ROOT, "met": "missed"},
        {"name": str(module(2)), "root": ROOT, "met": "compiled"},
    ]
    assert added.as_dict()["graphs"] == 1


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, None),
        ({"graphs": 1, "local": 1}, "1 graph: 1 local"),
        (
            {
                "graphs": 20,
                "local": 12,
                "fetched": 6,
                "compiled": 2,
                "waited_for": 1,
                "compiled_s": 190.4,
                "waited_s": 40.0,
                "saved_s": 1260.0,
            },
            "20 graphs: 12 local, 6 fetched, 2 compiled (3 min 10 s), 1 waited for (40 s), about 21 min saved",
        ),
        (
            {"graphs": 3, "fetched": 1, "compiled": 2, "compiled_s": 7500.0, "saved_s": 30.0},
            "3 graphs: 1 fetched, 2 compiled (2 h 5 min), about 30 s saved",
        ),
    ],
)
def test_the_line(changes: dict[str, float], text: str | None) -> None:
    assert counts.sentence(Counts().as_dict() | changes) == text


def test_a_process_notes_the_first_event_of_a_module(tmp_path: Path) -> None:
    clock = Clock()
    noted = Tally(str(tmp_path), clock)
    for _ in range(2):
        noted.local(ROOT, module(1))
        noted.fetched(ROOT, module(2), 12.0)
        noted.local(ROOT, module(2))
        noted.missed(ROOT, module(3))
    noted.lock_taken(ROOT, module(3))
    clock.now_s += 30
    noted.lock_ends(ROOT, module(3), is_ready=True)
    noted.lock_ends(ROOT, module(3), is_ready=True)
    noted.local(ROOT, module(3))
    noted.waited(ROOT, module(1), 2.5)
    (file,) = tmp_path.iterdir()
    assert (file.name, file.stat().st_mode & 0o777) == (f"{os.getpid()}.events", 0o600)
    events = [tally.decode(line) for line in file.read_bytes().split(b"\n") if line]
    assert events == [
        Event(LOCAL, ROOT, module(1)),
        Event(FETCHED, ROOT, module(2), 12.0),
        Event(MISSED, ROOT, module(3)),
        Event(COMPILED, ROOT, module(3), 30.0),
        Event(WAITED, ROOT, module(1), 2.5),
    ]


def test_a_lock_without_a_result_is_no_compile(tmp_path: Path) -> None:
    noted = Tally(str(tmp_path))
    noted.lock_taken(ROOT, module(1))
    noted.lock_ends(ROOT, module(1), is_ready=False)
    noted.lock_taken(ROOT, module(2))
    noted.fetched(ROOT, module(2))  # the second look, after the lock
    noted.lock_ends(ROOT, module(2), is_ready=True)
    noted.lock_taken(ROOT, module(3))
    noted.after_fork_in_child()
    noted.lock_ends(ROOT, module(3), is_ready=True)
    numbers = counts.read(str(tmp_path)).as_dict()
    assert (numbers["graphs"], numbers["fetched"]) == (1, 1)


def test_a_forked_child_writes_a_file_of_its_own(tmp_path: Path) -> None:
    noted = Tally(str(tmp_path))
    noted.local(ROOT, module(1))
    pid = os.fork()
    if pid == 0:
        noted.local(ROOT, module(2))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert {file.name for file in tmp_path.iterdir()} == {f"{os.getpid()}.events", f"{pid}.events"}
    assert counts.read(str(tmp_path)).as_dict()["local"] == 2


def test_a_folder_that_is_gone_is_nobodys_problem(tmp_path: Path) -> None:
    noted = Tally(str(tmp_path / "gone"))
    noted.local(ROOT, module(1))
    noted.waited(ROOT, module(1), 1.0)
    assert not (tmp_path / "gone").exists()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_in_the_run_writes_nothing_and_says_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    noted = Tally(str(tmp_path))
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        noted.local(ROOT, module(1))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert list(tmp_path.iterdir()) == []


def test_there_are_notes_only_below_neff_run() -> None:
    assert tally.of_environment({}) is None
    assert tally.of_environment({tally.RUN_DIR: ""}) is None
    assert tally.of_environment({tally.RUN_DIR: "/run/x"}) is not None


def test_reading_a_folder_takes_inner_runs_and_nothing_odd(tmp_path: Path) -> None:
    (tmp_path / "neff-run-inner").mkdir()
    (tmp_path / "neff-run-inner" / "7.events").write_bytes(tally.encode(Event(LOCAL, ROOT, module(1))))
    (tmp_path / "8.events").write_bytes(tally.encode(Event(LOCAL, ROOT, module(2))))
    (tmp_path / "9.tmp").write_bytes(tally.encode(Event(LOCAL, ROOT, module(3))))
    os.mkfifo(tmp_path / "10.events")
    (tmp_path / "11.events").symlink_to("/dev/zero")
    assert counts.read(str(tmp_path)).as_dict()["local"] == 2
