"""What is drawn before a run, what trainers choose, and what is said of memory and leaks."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.soak.job import Job, choose, graphs_so_far
from tests.soak.judge import Violation
from tests.soak.plan import Kind, Settings, draw, is_kill
from tests.soak.report import Report
from tests.soak.usage import Usage, at_rest, growth_mb_per_hour


@pytest.mark.parametrize(("environ", "kills"), [({}, 300), ({"SOAK_S": "600"}, 50), ({"SOAK_KILLS": "7"}, 7)])
def test_kills_go_with_the_length(environ: dict[str, str], kills: int) -> None:
    settings = Settings.of(environ)
    events = draw(settings)
    assert sum(is_kill(event.kind) for event in events) == settings.kills == kills
    assert {event.kind for event in events} >= set(Kind) - {kind for kind in Kind if is_kill(kind)}
    assert events == sorted(events)
    assert 0 < events[0].at_s < events[-1].at_s <= settings.length_s


def test_a_leak_is_only_made_where_it_is_wanted() -> None:
    assert (Settings.of({}).leak_mb, Settings.of({"SOAK_LEAK_MB": "2"}).leak_mb) == (0.0, 2.0)


def test_a_seed_is_a_plan() -> None:
    assert draw(Settings(100, 9, 1)) == draw(Settings(100, 9, 1)) != draw(Settings(100, 9, 2))


def test_trainers_meet_fresh_and_old_graphs_and_none_that_is_not_there_yet() -> None:
    job = Job("a-0", "a", "", "", "", "", 1, began_s=0.0, home_s=100.0, seed="1")
    assert Job.parse(job.encode()) == job
    chance = random.Random(1)
    for elapsed_s in (0.0, 30.0, 99.0, 1000.0):
        met = Counter(choose(chance, job, elapsed_s) for _ in range(500))
        assert 0 <= min(met) <= max(met) < graphs_so_far(elapsed_s)
    fresh = {number for number in met if number > graphs_so_far(900.0)}
    assert fresh
    assert {number % 5 for number in fresh} <= {0, 4}  # its own, and everybody's


def line(mb_per_hour: float, to_s: int) -> list[Usage]:
    """A ramp at the start, and then a steady growth."""
    return [Usage(at, 9, 9, 9, min(at, 600) / 10 + mb_per_hour * at / 3600) for at in range(0, to_s, 15)]


def test_growth_is_told_from_ten_minutes_on_and_not_of_a_short_run() -> None:
    assert growth_mb_per_hour(line(0.7, 3600)) == pytest.approx(0.7)
    assert growth_mb_per_hour(line(0.7, 1700)) is None
    assert growth_mb_per_hour([]) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_leak_of_2_mb_an_hour_is_found_in_what_a_working_daemon_needs(seed: int) -> None:
    """Which is now more, now less: what one look sees is up to 1 MB beside the next."""
    chance = random.Random(seed)

    def noisy(mb_per_hour: float) -> list[Usage]:
        return [seen._replace(memory_mb=60 + seen.memory_mb + chance.random()) for seen in line(mb_per_hour, 3600)]

    first = Usage(60, 9, 9, 9, 60.0)
    assert Report({}, {}, [], noisy(0.3), first, first).is_good
    assert not Report({}, {}, [], noisy(2.0), first, first).is_good


def test_at_rest_is_the_least_of_each() -> None:
    samples = [Usage(1, 5, 7, 9, 30.0), Usage(2, 6, 6, 8, 31.0)]
    assert at_rest(samples) == Usage(2, 5, 6, 8, 31.0)


def report(first: Usage | None, last: Usage | None, mb_per_hour: float = 0.0, *violations: Violation) -> Report:
    return Report({"seconds": 3600, "kills": 300}, {"seed": 1}, violations, line(mb_per_hour, 3600), first, last)


@pytest.mark.parametrize("what", ["files", "threads", "tasks"])
def test_more_than_after_the_first_minute_is_a_leak(what: str) -> None:
    first = Usage(60, 9, 9, 9, 60.0)
    assert report(first, first._replace(memory_mb=90.0)).is_good
    assert report(first, first._replace(**{what: 10})).leaks == [f"{what} 9 -> 10"]
    assert not report(first, first, 1.1).is_good
    assert report(None, None).is_good


def test_what_a_run_says(tmp_path: Path) -> None:
    first = Usage(60, 9, 9, 9, 60.0)
    broken = report(first, first, 0.5, Violation("lost", "graph 1", "was ready on a"))
    assert not broken.is_good
    assert broken.lines() == [
        "BROKEN lost: graph 1 (was ready on a)",
        "witness: files 9 -> 9, threads 9 -> 9, tasks 9 -> 9, memory 60.0 -> 60.0 MB, +0.50 MB an hour",
        "seconds 3600, kills 300, lost 1, torn 0, doubled 0, stuck 0",
    ]
    broken.write(tmp_path / "soak.json")
    written = json.loads((tmp_path / "soak.json").read_text())
    assert written["figures"]["lost"] == len(written["violations"]) == 1
    assert "not judged" in report(None, None).lines()[0]
