"""Proof of death, with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neffd.compiles import processes
from neffd.compiles.processes import Watched, client_pid, program_of
from tests.harness.daemon import python_path
from tests.harness.waiting import eventually
from tests.unit.waiting import until

KEY = f"MODULE_112233445566{os.getpid()}+e30acd3a"  # that no other test process has


@contextlib.contextmanager
def sleeping(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends when its standard input does, or when it is killed."""
    script = "import sys; sys.stdin.read()"
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            # For a moment after it has begun it has no arguments that could be seen.
            eventually(Path(f"/proc/{process.pid}/cmdline").read_bytes, "its arguments")
            yield process
        finally:
            process.kill()


async def test_the_end_of_a_process_is_told_once_even_while_nobody_waits_for_it() -> None:
    told: list[int] = []
    watched = Watched(told.append)
    with sleeping() as process, sleeping() as other:
        assert watched.add(process.pid)
        assert watched.add(process.pid)
        assert watched.add(other.pid)
        process.kill()  # a zombie until its parent looks
        await until(lambda: told == [process.pid], "the end is told")
        watched.close()
        other.kill()
        other.wait()
        await asyncio.sleep(0)
        assert told == [process.pid]


async def test_a_process_that_is_gone_already_is_told_at_once() -> None:
    told: list[int] = []
    watched = Watched(told.append)
    with sleeping() as process:
        process.kill()
        process.wait()
        assert watched.add(process.pid)
        await until(lambda: told == [process.pid], "the end is told")


def test_a_process_is_believed_which_program_it_is(tmp_path: Path) -> None:
    """The same in all its greetings, another one after `exec`; of another process, or a proxy, nothing is known."""
    script = (
        "import json, os, sys; from neff import greeting\n"
        "for _ in range(2): print(json.dumps(greeting.of_trainer('/', (None, None))), flush=True)\n"
        "sys.argv[1:] and os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])\n"
        "sys.stdin.read()"
    )
    environ = {**os.environ, "PYTHONPATH": python_path()}
    command = [sys.executable, "-c", script, script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        said = [json.loads(process.stdout.readline()) for _ in range(4)]
        first, again, other, last = (program_of(hello, process.pid) for hello in said)
        assert first is not None
        assert again is not None
        assert other is not None
        assert last is not None
        assert (first.number, other.number) == (again.number, last.number)
        assert other.has_replaced(first)
        assert other.has_replaced(again)
        assert not again.has_replaced(first)
        assert not first.has_replaced(other)
        for pid in (0, os.getpid(), 2**22 + 1):
            assert program_of(said[0], pid) is None
        assert program_of({**said[0], "pid": None}, process.pid) is None
        assert client_pid(said[0], process.pid) == process.pid
        assert client_pid(said[0], os.getpid()) == 0, "it has come through us"
        assert client_pid({}, os.getpid()) == os.getpid()
        assert client_pid(said[0], 0) == 0
        process.communicate()
        assert program_of(said[0], process.pid) is None


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: st.dictionaries(
            st.sampled_from(["program", "number", "started", "at_ns", "pid"]), inner, max_size=4
        ),
    )
)
def test_whatever_a_client_says_of_itself(program: object) -> None:
    assert program_of({"pid": os.getpid(), "program": program}, os.getpid()) is None


async def test_of_an_invisible_process_nothing_is_known() -> None:
    assert not Watched(lambda pid: None).add(0)


async def test_without_pidfds_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pid: int) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "pidfd_open", refused)
    assert not Watched(lambda pid: None).add(os.getpid())


async def test_one_that_nobody_asks_about_any_more_is_not_told() -> None:
    told: list[int] = []
    watched = Watched(told.append)
    with sleeping() as process:
        watched.add(process.pid)
        watched.drop(process.pid)
        watched.drop(process.pid)
        process.kill()
        process.wait()
        await asyncio.sleep(0)
        assert told == []


def test_which_processes_name_a_module() -> None:
    with sleeping(f"model.{KEY}.hlo_module.pb", "-O1") as process:
        found = processes.naming([KEY, "MODULE_9+00000000"])
        assert list(found[KEY]) == [process.pid]
        assert KEY in found[KEY][process.pid] or found[KEY][process.pid].endswith("…")
        assert found["MODULE_9+00000000"] == {}
        assert processes.names(process.pid, KEY)
        assert not processes.names(process.pid, "MODULE_9+00000000")
        process.kill()
        process.wait()
        assert not processes.names(process.pid, KEY)


def test_start_times_tell_processes_apart() -> None:
    assert processes.start_time(os.getpid()) == processes.start_time(os.getpid())
    assert processes.start_time(2**22 + 1) is None
    with sleeping() as process:
        assert (processes.start_time(process.pid) or 0) >= (processes.start_time(os.getpid()) or 0)


def test_the_pid_namespace_has_a_name() -> None:
    assert processes.pid_space() == processes.pid_space()
    assert str(Path("/proc/self/ns/pid").stat().st_ino) in (processes.pid_space() or "")


def test_who_cannot_be_looked_at_for_want_of_files_is_not_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def the_last_one_was_for_the_list() -> list[Path]:
        folders = list(Path("/proc").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        return folders

    monkeypatch.setattr(processes, "_PROC", SimpleNamespace(iterdir=the_last_one_was_for_the_list))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            processes.naming([KEY])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
