"""Problems are said once, however many entries meet them, and go away when they are over."""

from __future__ import annotations

import pytest

from neffd.metrics import Metrics
from neffd.serve.status import Problems, counters


def test_the_same_remedy_is_the_same_problem(caplog: pytest.LogCaptureFixture) -> None:
    problems = Problems("/cache")
    for number in range(1000):
        problems.note("disk", f"no space for outbox/{number}", "")
        problems.note("cannot-share", f"folder {number}", "setfacl /cache")
    problems.note("cannot-share", "another", "setfacl /other")
    assert [(kept["reason"], kept["detail"], kept["hint"]) for kept in problems.status()] == [
        ("disk", "no space for outbox/999", ""),
        ("cannot-share", "folder 999", "setfacl /cache"),
        ("cannot-share", "another", "setfacl /other"),
    ]
    assert len(caplog.records) == 3


def test_a_problem_is_shown_as_it_is_now_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    problems = Problems("/cache")
    for subject in ("one", "two"):
        problems.note("cannot-read", f"{subject}: no permission", "setfacl /cache", subject)
    problems.note("cannot-read", "one: input/output error", "setfacl /cache", "one")
    assert [kept["detail"] for kept in problems.status()] == ["one: input/output error"]
    problems.over("cannot-read", subject="one")
    assert [kept["detail"] for kept in problems.status()] == ["two: no permission"]
    assert len(caplog.records) == 1


def test_many_of_one_kind_hide_none_of_another() -> None:
    problems = Problems("/cache")
    for number in range(1000):
        problems.note("stale-lock", f"lock {number}", f"rm {number}")
    problems.note("disk", "No space left on device", "")
    assert problems.fatal() == ["disk: No space left on device"]
    assert len(problems.status()) < 100


def test_a_problem_is_over_when_it_is_over_for_the_last_who_had_it() -> None:
    problems = Problems("/cache")
    for entry in ("one", "two", "two"):
        problems.note("cannot-read", f"{entry}: no permission", "setfacl /cache", entry)
    problems.note("cannot-read", "three: no permission", "setfacl /three", "three")
    problems.over("cannot-read", subject="one")
    problems.over("cannot-read", subject="one")
    problems.over("cannot-read", subject="unheard of")
    problems.over("disk", subject="two")
    assert [kept["detail"] for kept in problems.status()] == ["two: no permission", "three: no permission"]
    problems.over("cannot-read", subject="two")
    assert [kept["hint"] for kept in problems.status()] == ["setfacl /three"]
    problems.over("cannot-read")
    assert problems.status() == []


def test_only_what_keeps_us_from_work_is_fatal_and_only_while_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    problems = Problems("/cache")
    problems.note("cannot-share", "folder", "setfacl /cache")
    problems.note("disk", "No space left on device", "")
    assert problems.fatal() == ["disk: No space left on device"]
    problems.over("disk")
    problems.over("disk")
    assert problems.fatal() == []
    assert [kept["reason"] for kept in problems.status()] == ["cannot-share"]
    problems.note("disk", "again", "")
    problems.note("disk-nearly-full", "nothing more can be evicted", "")
    problems.note("over-limit", "nothing more can be evicted", "")
    problems.note("scan-stuck", "no answer", "")
    expected = ["disk: again", "disk-nearly-full: nothing more can be evicted", "scan-stuck: no answer"]
    assert problems.fatal() == expected
    assert [record.levelname for record in caplog.records].count("WARNING") == 6


def test_problems_without_end_have_an_end() -> None:
    problems = Problems("/cache")
    for number in range(10_000):
        problems.note("cannot-share", "folder", f"rm {number}")
    assert len(problems.status()) < 100


def test_counters_are_numbers_by_name_and_label() -> None:
    metrics = Metrics()
    metrics.connections.inc()
    metrics.questions.labels("absent", "locked").inc(2)
    metrics.fetched_entries.labels("hub").inc()
    found = counters(metrics)
    assert found["neffd_connections"] == 1
    assert found["neffd_questions"] == {"state=absent,reason=locked": 2}
    assert found["neffd_fetched_entries"] == {"remote=hub": 1}
