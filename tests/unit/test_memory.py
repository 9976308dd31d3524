"""The C library's heaps, looked at in a process of its own: what is set there holds for good."""

from __future__ import annotations

import asyncio
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from neffd import memory
from tests.harness.daemon import python_path

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's heaps")


def test_threads_share_one_heap() -> None:
    """Each heap is one <heap> here."""
    script = """
import ctypes, sys, threading
from neffd.memory import share_one_heap
from neffd.threads import whole_pool

if sys.argv[1:] == ["shared"]:
    share_one_heap()
pool, meet = whole_pool(12, "at-once"), threading.Barrier(12)
list(pool.map(lambda _: (bytearray(3_000), meet.wait()), range(12)))
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
"""
    heaps = [_run(script, *how).count("<heap ") for how in ([], ["shared"])]
    assert heaps[0] > heaps[1] == 1


def test_what_lies_free_between_two_things_in_use_goes_back() -> None:
    script = """
import asyncio, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from neffd import memory

resident_kb = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4
pieces = [bytearray(20_000) for _ in range(4_000)]
del pieces[1::2], pieces[1:-1:2]  # the last one stays
held = resident_kb()
memory._EVERY_S = 0.001

async def wait():
    with ThreadPoolExecutor(1) as workers:
        giving = asyncio.get_running_loop().create_task(memory.keep_level(workers))
        while resident_kb() > held - 20_000:
            await asyncio.sleep(0.001)
        giving.cancel()

asyncio.run(asyncio.wait_for(wait(), 20))
print("given back")
"""
    assert _run(script) == "given back\n"


@pytest.mark.skipif(sys.version_info[:2] == (3, 12), reason="names are never forgotten there")
def test_names_take_no_more_room_later() -> None:
    """As many as the daemon's paths have in hours."""
    script = """
import sys
from pathlib import Path
from neffd import memory, service
from neffd.remotes.hub import repo
from neffd.serve import http

resident_kb = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4
if sys.argv[1:] == ["made"]:
    memory.make_room_for_names()
held = resident_kb()
for number in range(60_000):
    Path(f"module-{number}")
print(resident_kb() - held)
"""
    grown_kb = [int(_run(script, *how)) for how in ([], ["made"])]
    assert grown_kb[0] > 700 > 300 > grown_kb[1]


async def test_without_such_a_c_library_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    monkeypatch.setattr(memory, "_EVERY_S", 0.0)
    memory.share_one_heap()
    with ThreadPoolExecutor(1) as workers:
        await asyncio.wait_for(memory.keep_level(workers), 5)


def _run(script: str, *arguments: str) -> str:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.check_output(command, env={"PYTHONPATH": python_path()}, text=True)
