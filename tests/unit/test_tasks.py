"""Background tasks: kept, named, reported when they crash, ended together."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest

from neffd.tasks import Tasks, Wake


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
    assert len(tasks) == 1
    go.set()
    await asyncio.wait_for(ended.wait(), 5)
    await asyncio.sleep(0)
    assert len(tasks) == 0


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


async def test_a_sleeper_wakes_when_there_is_something_to_do_and_when_its_time_is_over() -> None:
    wake = Wake()
    wake.set()
    wake.set()
    assert await wake.wait()  # once for both
    sleeper = Tasks().start(wake.wait(), name="sleeper", watched=True)
    await asyncio.sleep(0)
    assert not sleeper.done()
    wake.set()
    await sleeper
    assert not await wake.wait(at_most_s=0.0)
    assert not asyncio.all_tasks() - {asyncio.current_task()}


async def test_a_sleeper_that_is_cancelled_while_it_wakes_ends() -> None:
    wake = Wake()
    sleeper = Tasks().start(wake.wait(at_most_s=60.0), name="sleeper", watched=True)
    await asyncio.sleep(0)
    wake.set()
    sleeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeper
