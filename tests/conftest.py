"""What every test is held to: it leaves no asyncio task, no thread and no open file behind.

The two fixtures nest around the event loop: files and threads are compared outside of it, because closing the loop ends
its selector and its executor; tasks inside of it, because closing the loop would cancel them and hide the leak.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

# Properties get fewer examples than by default, and as long as they need; HYPOTHESIS_PROFILE=thorough looks longer.
with contextlib.suppress(ImportError):  # the environment of `make interop` has none
    from hypothesis import HealthCheck, settings

    _slow = [HealthCheck.too_slow]  # to draw them: on a busy machine that proves nothing either
    settings.register_profile("quick", max_examples=40, deadline=None, suppress_health_check=_slow)
    settings.register_profile("thorough", max_examples=400, deadline=None, suppress_health_check=_slow)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

# How long a thread that was told to stop may take to end, all threads of one test together.
THREAD_GRACE_S = 3.0
# How many turns of the loop a task that was cancelled may take to end.
TASK_GRACE_TURNS = 5

# A shell's background job ignores Ctrl-C, and one under nohup the end of its terminal: so would every process that a
# test starts and sends a signal.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The directory of a remote."""
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def leaves_no_files_or_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test after which a thread or an open file is left."""
    if _opted_out(request):
        yield
        return
    threads, files = set(threading.enumerate()), _open_files()
    yield
    leaks = [f"thread {thread.name!r}" for thread in _threads_still_alive(threads)]
    if _open_files().items() - files.items():
        gc.collect()  # only now: it takes longer than everything else here
        leaks += [f"file {fd}: {target}" for fd, target in sorted(_open_files().items() - files.items())]
    if leaks:
        pytest.fail("the test left behind: " + ", ".join(leaks), pytrace=False)


@pytest.fixture(autouse=True)
def leaves_no_tasks(request: pytest.FixtureRequest, leaves_no_files_or_threads: None) -> None:
    """Fails an async test after which a task is left; costs other tests nothing, not even an event loop."""
    # The marker that pytest-asyncio gives to async tests; the function itself may be wrapped, by hypothesis for one.
    if request.node.get_closest_marker("asyncio") is not None and not _opted_out(request):
        request.getfixturevalue("_tasks_of_the_loop")


@pytest.fixture
async def _tasks_of_the_loop() -> AsyncIterator[None]:
    # Held in a set of this loop's own: a loop that outlives the test may have tasks of its fixtures.
    before = asyncio.all_tasks()
    yield
    for _ in range(TASK_GRACE_TURNS):
        if not _new_tasks(before):
            return
        await asyncio.sleep(0)
    if leaks := _new_tasks(before):
        names = ", ".join(sorted(f"task {task.get_name()!r} ({task.get_coro()!r})" for task in leaks))
        pytest.fail(f"the test left behind: {names}", pytrace=False)


def _new_tasks(before: set[asyncio.Task[object]]) -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - before - {asyncio.current_task()}


def _threads_still_alive(before: set[threading.Thread]) -> list[threading.Thread]:
    deadline_s = time.monotonic() + THREAD_GRACE_S
    new = [thread for thread in threading.enumerate() if thread not in before]
    for thread in new:
        thread.join(max(0.0, deadline_s - time.monotonic()))
    return [thread for thread in new if thread.is_alive()]


def _open_files() -> dict[int, str]:
    """What each file descriptor of this process refers to."""
    files = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - three times as fast as pathlib, and run for every test
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            files[int(name)] = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
    files.pop(_resource_tracker_fd(), None)
    return files


def _resource_tracker_fd() -> int:
    """The pipe that multiprocessing opens once for a whole process, and keeps."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    fd = getattr(getattr(module, "_resource_tracker", None), "_fd", None)
    return -1 if fd is None else int(fd)


def _opted_out(request: pytest.FixtureRequest) -> bool:
    marker = request.node.get_closest_marker("no_leak_check")
    if marker is None:
        return False
    reason = marker.kwargs.get("reason", marker.args[0] if marker.args else "")
    if not isinstance(reason, str) or not reason.strip():
        pytest.fail("no_leak_check needs a reason", pytrace=False)
    return True
