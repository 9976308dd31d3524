"""What waiting costs: being woken after another rank's compile, a daemon that is no good, the hook's first use."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from neff.asking import Asker
from neff.keys import LockId, ModuleName
from neff.notices import Notices
from tests.bench.measure import Figure, percentiles
from tests.harness import entries
from tests.harness.daemon import PROJECT, Daemon, python_path
from tests.harness.waiting import eventually
from tests.neuron.env import standin_env
from tests.unit.client.scripted import Peer, ScriptedDaemon

_WAKES = 200
_GRAPHS = 100
_STARTS = 10


def bench_waits(folder: Path) -> list[Figure]:
    """Figures of one daemon below `folder`, and of some that are none."""
    started = time.monotonic()
    with Daemon(folder / "host") as host:
        figures = percentiles("woken after another rank's compile", _wake_ups_us(host))
        figures += _first_use(host)
    figures += _no_good()
    return [*figures, Figure("wall time of all", time.monotonic() - started, "s")]


def _wake_ups_us(host: Daemon) -> list[float]:
    """From the ready mark and the end of the lock to the waiter's return, sorted."""
    holder, waiter = Asker(str(host.socket)), Asker(str(host.socket))
    root, taken_us = str(host.cache), []
    for number in range(_WAKES):
        name = entries.module(number)
        entry = host.cache / name.namespace / name.key
        entry.mkdir(parents=True)
        lock = entry / "model.hlo_module.pb.lock"
        lock.touch()
        facts = lock.stat()
        holder.lock_taken(root, name, LockId(facts.st_ino, facts.st_ctime_ns))
        woken_ns: list[int] = []
        thread = threading.Thread(target=_wait, args=(waiter, root, name, woken_ns))
        thread.start()
        eventually(lambda: any(row["waiting"] for row in host.status()["compiling"]), "it waits")
        entries.write(host.cache, name, entries.files(name))
        began_ns = time.perf_counter_ns()
        lock.unlink()
        holder.lock_released(root, name, LockId(facts.st_ino, facts.st_ctime_ns))
        thread.join()
        taken_us.append((woken_ns[0] - began_ns) / 1000)
        waiter.close()
    holder.close()
    return sorted(taken_us)


def _wait(asker: Asker, root: str, name: ModuleName, woken_ns: list[int]) -> None:
    asker.wait_for_lock(root, name)
    woken_ns.append(time.perf_counter_ns())


def _no_good() -> list[Figure]:
    """The whole cost of a bad daemon over many graphs, each asked for, locked, asked for again and unlocked."""
    kinds: dict[str, Callable[[Peer], None] | None] = {
        "dead": None,
        "hung": lambda peer: peer.hang(),
        "hung after its greeting": _hung_after_greeting,
        "endlessly slow": _slow,
        "0.4 s an answer": _a_little_slow,
    }
    return [Figure(f"{kind} daemon, {_GRAPHS} graphs", _cost_s(script), "s") for kind, script in kinds.items()]


def _hung_after_greeting(peer: Peer) -> None:
    peer.greet(alive_s=1.0)
    peer.hang()


def _slow(peer: Peer) -> None:
    """Lives, and never comes to an end."""
    peer.greet(alive_s=1.0)
    request = peer.read()
    while True:
        peer.send({"id": request["id"], "key": request.get("keys", ["?"])[0], "state": "asking"})
        time.sleep(0.5)


def _a_little_slow(peer: Peer) -> None:
    """Has none of them, and takes its time to say so."""
    peer.greet(alive_s=1.0)
    while True:
        request = peer.read()
        if request["op"] == "resolve":
            time.sleep(0.4)
            answer = {"id": request["id"], "key": request["keys"][0], "state": "absent", "reason": "not-on-remotes"}
            peer.send(answer, {"id": request["id"], "done": True})


def _cost_s(script: Callable[[Peer], None] | None) -> float:
    with _listening(script) as path:
        asker = Asker(str(path), notices=_Quiet())
        began = time.perf_counter()
        for number in range(_GRAPHS):
            name = entries.module(number)
            asker.is_ready("/cache", name, holding=False)
            asker.lock_taken("/cache", name, LockId(1, 1))
            asker.is_ready("/cache", name, holding=True)
            asker.lock_released("/cache", name, LockId(1, 1))
        taken_s = time.perf_counter() - began
        asker.close()
        return taken_s


@contextmanager
def _listening(script: Callable[[Peer], None] | None) -> Iterator[Path]:
    with TemporaryDirectory(prefix="neff") as folder:
        path = Path(folder) / "s"
        if script is None:
            yield path
            return
        with ScriptedDaemon(path, script):
            yield path


class _Quiet(Notices):
    def say(self, reason: str, text: str) -> None:
        """Not in a table of figures."""


def _first_use(host: Daemon) -> list[Figure]:
    """Installing the hook and the first question, in fresh processes: the middle of several."""
    script = (
        "import sys, time\n"
        "from libneuronxla.neuron_cc_cache import CacheUrl, CompileCacheFs\n"
        "began = time.perf_counter()\n"
        "import neff; neff.install(sys.argv[1])\n"
        "installed = time.perf_counter()\n"
        "CompileCacheFs(CacheUrl(sys.argv[2])).exists(sys.argv[3])\n"
        "print(installed - began, time.perf_counter() - installed)\n"
    )
    name = entries.module(10**6)
    mark = host.cache / name.namespace / name.key / "model.done"
    environ = standin_env(host.cache)
    environ["PYTHONPATH"] = f"{environ['PYTHONPATH']}:{python_path()}"
    command = [sys.executable, "-c", script, str(host.socket), str(host.cache), str(mark)]
    runs = [
        subprocess.run(command, env=environ, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(_STARTS)
    ]
    install_s, question_s = (sorted(float(run[part]) for run in runs)[_STARTS // 2] for part in (0, 1))
    return [
        Figure("first use: import and install", install_s * 1000, "ms"),
        Figure("first use: first question", question_s * 1000, "ms"),
    ]
