"""Background tasks: kept, named, reported when they crash, ended together."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest

from neffd.tasks import Tasks


async def _fail() -> None:
    raise ValueError("broken")


async def test_a_crash_is_reported_with_the_tasks_name(caplog: pytest.LogCaptureFixture) -> None:
    crashed: list[tuple[str, BaseException]] = []
    tasks = Tasks(lambda name, error: crashed.append((name, error)))
    task = tasks.start(_fail(), name="vital")
    await asyncio.wait({task})
    await asyncio.sleep(0)
    assert [(name, str(error)) for name, error in crashed] == [("vital", "broken")]
    assert "task vital crashed" in caplog.text
    assert len(tasks) == 0


async def test_what_a_caller_watches_is_its_own_business(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks(lambda name, error: pytest.fail("not a crash"))
    task = tasks.start(_fail(), name="download", watched=True)
    await asyncio.wait({task})
    await asyncio.sleep(0)
    assert len(tasks) == 0
    assert caplog.text == ""


async def test_a_task_that_nobody_else_holds_is_kept() -> None:
    tasks, go = Tasks(), asyncio.Event()
    ended = asyncio.Event()

    async def work() -> None:
        await go.wait()
        ended.set()

    tasks.start(work(), name="kept")
    await asyncio.sleep(0)
    gc.collect()
    go.set()
    await asyncio.wait_for(ended.wait(), 5)


async def test_stop_ends_everything_and_names_what_does_not_end() -> None:
    tasks, release = Tasks(), asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    willing = tasks.start(asyncio.sleep(3600), name="willing")
    stuck = tasks.start(stubborn(), name="stubborn")
    await asyncio.sleep(0)
    assert await tasks.stop(0.05) == ["stubborn"]
    assert willing.cancelled()
    release.set()
    await asyncio.wait_for(stuck, 5)
    assert await tasks.stop(0.05) == []
