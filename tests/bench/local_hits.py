"""What the hook adds to a local hit, and to the start of a Python below `neff run`: both sides in turn, in one go."""

from __future__ import annotations

import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neff.asking import Asker
from neff.hook import CACHE_MODULE, Hook
from neff.launch.environment import SITE_DIR
from neff.notices import Notices
from neff.tally import Tally
from neff.used import UsedReports
from tests.bench.measure import Figure
from tests.harness import entries
from tests.neuron.env import importable_stack

_ENTRIES = 200
_ROUNDS = 40
_STARTS = 40
# A daemon that takes in what is told of hits, in a process of its own.
_LISTENER = """
import json, socket, sys, threading
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen(64)
print(flush=True)
def serve(peer):
    try:
        for line in peer.makefile("rb"):
            message = json.loads(line)
            hello = {"hello": {"capabilities": ["used"]}}
            answer = hello if "hello" in message else {"id": message["id"], "done": True}
            peer.sendall(json.dumps(answer).encode() + b"\\n")
    except OSError:
        pass
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


def bench_local_hits(folder: Path) -> list[Figure]:
    """Figures of hits in a cache below `folder`: of each hit the best of all rounds, which others disturb least."""
    names = [entries.module(number) for number in range(_ENTRIES)]
    for name in names:
        entries.write(folder / "cache", name, entries.files(name))
    keys = [name.key.removeprefix("MODULE_").partition("+")[0] for name in names]
    tally = Tally(str(folder))
    started = time.perf_counter()
    for name in names:
        tally.local(str(folder / "cache"), name)
    noting_us = (time.perf_counter() - started) * 1e6 / _ENTRIES
    with importable_stack():
        stack: Any = importlib.import_module(CACHE_MODULE)
        cache = stack.CompileCacheFs(stack.CacheUrl(str(folder / "cache"), url_type="fs"))
        copy, socket = str(folder / "copy"), str(folder / "s")

        def hit(key: str) -> None:
            with cache.lookup(key, entries.FLAGS) as entry:
                entry.download_neff(copy)

        kinds: dict[str, Callable[[], Hook | None]] = {
            "stock": lambda: None,
            "hook": lambda: Hook(Asker("/nowhere"), Notices(), None, UsedReports(lambda: socket)),
            "hook, no daemon": lambda: Hook(Asker("/nowhere"), Notices(), None, UsedReports(lambda: "/nowhere")),
            "hook under neff run": lambda: Hook(Asker("/nowhere"), Notices(), tally, UsedReports(lambda: socket)),
        }
        best = {kind: [float("inf")] * _ENTRIES for kind in kinds}
        with _listener(socket):
            for _ in range(_ROUNDS):
                for kind, make in kinds.items():
                    best[kind] = list(map(min, best[kind], _timed_us(stack, make(), hit, keys)))
    best_us = {kind: statistics.mean(each_us) for kind, each_us in best.items()}
    stock = best_us.pop("stock")
    figures = [Figure("local hit, stock", stock, "us")]
    for kind, cost_us in best_us.items():
        figures += [Figure(f"local hit, {kind}", cost_us, "us"), Figure(f"  {kind} / stock", cost_us / stock, "x")]
    return [*figures, Figure("a graph's first note under neff run", noting_us, "us"), *_starts()]


@contextmanager
def _listener(socket: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", _LISTENER, socket], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()


def _timed_us(stack: Any, hook: Hook | None, work: Callable[[str], None], keys: Sequence[str]) -> list[float]:
    if hook is not None:
        hook.patch(stack)
    try:
        taken_us = []
        for key in keys:
            started = time.perf_counter()
            work(key)
            taken_us.append((time.perf_counter() - started) * 1e6)
        return taken_us
    finally:
        if hook is not None:
            hook.unpatch()


def _starts() -> list[Figure]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    best_ms = {"stock": float("inf"), "below neff run": float("inf")}
    for _ in range(_STARTS):
        for kind, changes in (("stock", {}), ("below neff run", {"PYTHONPATH": SITE_DIR})):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", ""], env=environ | changes, check=True)
            best_ms[kind] = min(best_ms[kind], (time.perf_counter() - started) * 1e3)
    return [Figure(f"start of a Python, {kind}", cost_ms, "ms") for kind, cost_ms in best_ms.items()]
