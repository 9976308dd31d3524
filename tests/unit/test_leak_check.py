"""The leak check of tests/conftest.py catches each kind of leak, and nothing else. Run on tests of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

LEAKY = """
import asyncio, gc, multiprocessing.resource_tracker, os, socket, threading
import pytest
from hypothesis import given, settings, strategies as st

kept = []

async def forever():
    await asyncio.Event().wait()

async def test_leaks_task():
    kept.append(asyncio.get_running_loop().create_task(forever(), name="lost"))

@given(st.just(7))
@settings(max_examples=1)
async def test_leaks_task_under_hypothesis(seven):
    kept.append(asyncio.get_running_loop().create_task(forever(), name="lost"))

@pytest.fixture
async def leaky_fixture():
    yield
    kept.append(asyncio.get_running_loop().create_task(forever(), name="lost"))

async def test_leaks_task_in_fixture(leaky_fixture):
    pass

def test_leaks_file():
    kept.append(open(__file__))

async def test_leaks_socket():
    kept.append(socket.socket())

def test_leaks_descriptor_number_reused():
    kept[-1].close()
    kept.append(os.open("/dev/null", os.O_RDONLY))

@pytest.mark.parametrize("daemon", [True, False])
def test_leaks_thread(daemon):
    kept.append(go := threading.Event())
    threading.Thread(target=go.wait, name="lost", daemon=daemon).start()

def test_leaks_after_failing():
    kept.append(open(__file__))
    assert False

@pytest.mark.no_leak_check
def test_leaks_reason():
    pass

@pytest.mark.no_leak_check("to prove that it can be switched off")
async def test_fine_opted_out():
    kept.append(open(__file__))
    kept.append(asyncio.get_running_loop().create_task(forever()))

@pytest.mark.no_leak_check(reason="to prove that it can be switched off")
def test_fine_opted_out_by_keyword():
    kept.append(open(__file__))

def test_fine_nothing():
    pass

async def test_fine_cancelled_task():
    asyncio.get_running_loop().create_task(forever()).cancel()

async def slow_to_end():
    try:
        await forever()
    finally:
        await asyncio.sleep(0)
        await asyncio.sleep(0)

async def test_fine_task_slow_to_end():
    task = asyncio.get_running_loop().create_task(slow_to_end())
    await asyncio.sleep(0)
    task.cancel()

@pytest.fixture
async def tidy_fixture():
    task = asyncio.get_running_loop().create_task(forever())
    yield
    task.cancel()

async def test_fine_fixture_with_task(tidy_fixture):
    pass

async def test_fine_executor():
    assert await asyncio.to_thread(lambda: 7) == 7

def test_fine_ending_thread():
    go = threading.Event()
    threading.Thread(target=go.wait).start()
    go.set()

def test_fine_file_in_a_cycle():
    class Holder: pass
    holder = Holder()
    holder.me, holder.fd = holder, open(os.open("/dev/null", os.O_RDONLY), "rb", closefd=True)
    holder.fd.close()

class Descriptor:
    def __init__(self):
        self.me, self.fd = self, os.open("/dev/null", os.O_RDONLY)
    def __del__(self):
        os.close(self.fd)

def test_fine_only_the_collector_closes():
    Descriptor()

def test_fine_resource_tracker():
    multiprocessing.resource_tracker.ensure_running()

def teardown_module():
    for thing in kept:
        if isinstance(thing, threading.Event):
            thing.set()
        elif hasattr(thing, "close"):
            thing.close()
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The summary of a run of the tests above under this project's settings."""
    directory = tmp_path_factory.mktemp("leaky")
    (directory / "test_leaky.py").write_text(LEAKY)
    options = ["-c", str(PROJECT / "pyproject.toml"), "--rootdir", str(directory), "-p", "no:cacheprovider"]
    path = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-p", "tests.conftest", "-rA", "-W", "default", "test_leaky.py"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=50,
    )
    return str(run.stdout + run.stderr)


def results(outcome: str, kind: str) -> set[str]:
    return set(re.findall(rf"(?m)^{kind} test_leaky\.py::test_(\S+)", outcome))


def test_each_kind_of_leak_is_an_error(outcome: str) -> None:
    for name, left in {
        "leaks_task": "task 'lost'",
        "leaks_task_under_hypothesis": "task 'lost'",
        "leaks_task_in_fixture": "task 'lost'",
        "leaks_file": "file ",
        "leaks_socket": "socket:",
        "leaks_descriptor_number_reused": "/dev/null",
        "leaks_thread[True]": "thread 'lost'",
        "leaks_thread[False]": "thread 'lost'",
        "leaks_after_failing": "file ",
    }.items():
        (line,) = re.findall(rf"(?m)^ERROR test_leaky\.py::test_{re.escape(name)} - (.*)", outcome)
        assert line.startswith("Failed: the test left behind: ")
        assert left in line, name


def test_opting_out_needs_a_reason(outcome: str) -> None:
    assert "ERROR test_leaky.py::test_leaks_reason - Failed: no_leak_check needs a reason" in outcome


def test_nothing_else_is_an_error(outcome: str) -> None:
    fine = set(re.findall(r"def test_(fine\w+)", LEAKY))
    assert len(fine) == 11
    assert fine <= results(outcome, "PASSED")
    assert not fine & results(outcome, "ERROR")
