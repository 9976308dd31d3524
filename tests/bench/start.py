"""What a start costs: from the process's start to the first answer, the scan behind it, and the memory it takes.

A first start knows nothing of the directory; a second one finds its database.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.measure import Figure, cpu_s, resident_mb
from tests.harness import entries
from tests.harness.daemon import Daemon, RawClient

_COUNTS = (0, 10_000, 100_000)
_STARTS = 5
_LOOK_EVERY_S = 0.002
_LONGEST_S = 300.0


def bench_start(folder: Path) -> list[Figure]:
    """Figures of a daemon with one directory remote, without and with entries in its cache directory."""
    # A daemon of before leaves the bytecode behind, as an installed one has it.
    environ = {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
    figures = [Figure("bare Python, process start to end", _bare_python_s(), "s")]
    for count in _COUNTS:
        shared = folder / f"shared-{count}"
        shared.mkdir()
        remotes = [{"name": "shared", "url": f"file://{shared}", "mode": "read", "poll_s": 3600}]
        host = Daemon(folder / f"host-{count}", remotes, {"scan_s": 3600, "http": "127.0.0.1:0"}, environ)
        fill(host.cache, count)
        what = f"{count:,} entries"
        with contextlib.ExitStack() as stack:
            stack.callback(host.kill)
            first_s, scan_s = _start(host, count)
            figures += [
                Figure(f"{what}, first start: first answer (no bytecode yet, if the first of all)", first_s, "s"),
                Figure(f"{what}, first start: all of them seen after", scan_s, "s"),
                Figure(f"{what}, first start: CPU for both", cpu_s(host.pid), "s"),
            ]
            assert host.stop() == 0
            figures += _later_starts(host, count, what)
    return figures


def _later_starts(host: Daemon, count: int, what: str) -> list[Figure]:
    answered, scanned = [], []
    for _ in range(_STARTS):
        answer_s, scan_s = _start(host, count)
        answered.append(answer_s)
        scanned.append(scan_s)
        memory_mb, used_s = resident_mb(host.pid), cpu_s(host.pid)
        began = time.monotonic()
        assert host.stop() == 0
        stop_s = time.monotonic() - began
    return [
        Figure(f"{what}, later starts: first answer, median", sorted(answered)[_STARTS // 2], "s"),
        Figure(f"{what}, later starts: first answer, longest", max(answered), "s"),
        Figure(f"{what}, later starts: all of them seen after, median", sorted(scanned)[_STARTS // 2], "s"),
        Figure(f"{what}, later starts: CPU for both, of the last", used_s, "s"),
        Figure(f"{what}, later starts: resident memory", memory_mb, "MB"),
        Figure(f"{what}, later starts: stop", stop_s, "s"),
    ]


def _start(host: Daemon, count: int) -> tuple[float, float]:
    """Seconds from the start of the process to its first answer, and from there until it has seen all entries."""
    began = time.monotonic()
    with host.launched():
        answered_at = _first_answer(host)
    while host.status()["cache_dirs"][0]["entries"]["ready"] < count:
        assert time.monotonic() < answered_at + _LONGEST_S, host.log
        time.sleep(_LOOK_EVERY_S * 10)
    return answered_at - began, time.monotonic() - answered_at


def _first_answer(host: Daemon) -> float:
    """When a question was answered."""
    deadline = time.monotonic() + _LONGEST_S
    while True:
        with contextlib.suppress(OSError):
            client = RawClient(host.socket, {"root": str(host.cache)})
            break
        assert time.monotonic() < deadline, host.log
        time.sleep(_LOOK_EVERY_S)
    with contextlib.closing(client):
        name = entries.module(10**9)
        client.ask("resolve", namespace=name.namespace, keys=[name.key])
    return time.monotonic()


def fill(cache: Path, count: int) -> None:
    """Entries whose files are links to those of the first: what a look at them costs is the same."""
    if not count:
        return
    first = entries.write(cache, entries.module(0), entries.files(entries.module(0)))
    names = os.listdir(first)  # noqa: PTH208, the plain calls are several times as fast
    namespace = str(first.parent)
    for number in range(1, count):
        folder = f"{namespace}/{entries.module(number).key}"
        os.mkdir(folder)  # noqa: PTH102
        for name in names:
            # A file system allows only so many links to one file.
            source = folder if number % 10_000 == 0 else f"{namespace}/{entries.module(number - number % 10_000).key}"
            if source == folder:
                Path(f"{folder}/{name}").write_bytes((first / name).read_bytes())
            else:
                os.link(f"{source}/{name}", f"{folder}/{name}")


def _bare_python_s() -> float:
    taken = []
    for _ in range(_STARTS):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", ""], check=True)
        taken.append(time.monotonic() - began)
    return sorted(taken)[_STARTS // 2]
