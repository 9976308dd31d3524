"""Pools of threads: whole from the start, and never more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from neffd.threads import whole_pool


def named(name: str) -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith(name)}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    made = whole_pool(5, "whole")
    yield made
    made.shutdown()


def test_all_threads_are_there_before_anything_is_asked(pool: ThreadPoolExecutor) -> None:
    assert named("whole") == {f"whole_{number}" for number in range(5)}


def test_they_work_and_become_no_more(pool: ThreadPoolExecutor) -> None:
    all_at_once = threading.Barrier(5, timeout=10)
    assert sorted(future.result(10) for future in [pool.submit(all_at_once.wait) for _ in range(5)]) == list(range(5))
    assert [pool.submit(pow, number, 2).result(10) for number in range(50)] == [number**2 for number in range(50)]
    assert len(named("whole")) == 5


def test_fewer_where_the_system_gives_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def limited(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    made = whole_pool(5, "few")
    assert len(named("few")) == 2
    monkeypatch.undo()
    assert made.submit(pow, 3, 2).result(10) == 9
    made.shutdown()
