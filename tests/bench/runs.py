"""What a run is spared that is known before it begins: the reference case, 40 ms a request.

Beside it run the stock cache when it is warm, and plain concurrent GETs of the same files.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neff.asking import Asker
from neff.hook import CACHE_MODULE, Hook
from neff.keys import ModuleName
from neff.notices import Notices
from tests.bench.hub_reference import LATENCY_S, at_rest, fill, plain_gets, remote_of
from tests.bench.measure import Figure
from tests.harness import entries
from tests.harness.daemon import Daemon, RawClient
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess
from tests.neuron.env import importable_stack

_ENTRIES = 100
_ROUNDS = 3
_INGREDIENTS = {
    "version": 1,
    "model": {"id": "org/model", "type": "llama"},
    "shapes": {"batch_size": 1},
    "compiler": entries.NAMESPACE.removeprefix("neuronxcc-"),
}


def bench_runs(folder: Path) -> list[Figure]:
    """One host makes and records, others begin the same run."""
    names = [entries.module(number) for number in range(_ENTRIES)]
    with HubProcess(folder / "hub") as hub:
        remote = remote_of(hub, folder)
        hub.set(latency_s=LATENCY_S)
        with Daemon(folder / "maker", [remote]) as host, _run(host, "maker") as client:
            for name in names:
                client.ask("resolve", namespace=name.namespace, keys=[name.key])
            fill(host, names)
            client.ask("run-ended")
            host.ask("flush", timeout_s=300)
            eventually(lambda: len(_told(hub)) == _ENTRIES, "the manifests", 60)
        token = str(hub.token("alice"))
        plain_gets(hub, folder / "warm", token)
        before, together, plain = list[tuple[float, float]](), list[float](), list[float]()
        for number in range(_ROUNDS):
            before.append(_prefetched_before(Daemon(folder / f"before{number}", [remote]), names))
            together.append(_started_together(Daemon(folder / f"together{number}", [remote]), names))
            plain.append(plain_gets(hub, folder / f"plain{number}", token))
    ours_s, stock_s = (statistics.median(side) for side in zip(*before, strict=True))
    together_s, plain_s = statistics.median(together), statistics.median(plain)
    return [
        Figure("run: 100 graphs looked up, prefetched before", ours_s * 1e3, "ms"),
        Figure("run: the same by stock, warm", stock_s * 1e3, "ms"),
        Figure("  prefetched before / stock warm", ours_s / stock_s, "times"),
        Figure("run: started together with the trainer, which asks one after another", together_s, "s"),
        Figure("run: plain concurrent GETs of the same", plain_s, "s"),
        Figure("  started together / plain GETs", together_s / plain_s, "times"),
    ]


def _told(hub: HubProcess) -> set[str]:
    """The modules that manifests on the Hub name."""
    documents = [json.loads(data) for path, data in hub.read_files("alice/cache").items() if "/0_RUNS/" in path]
    return {module["key"] for document in documents for module in document["modules"]}


def _prefetched_before(host: Daemon, names: list[ModuleName]) -> tuple[float, float]:
    """Seconds of a hooked trainer from the first question to the last answer, and of stock on the same files."""
    with host, _run(host, "before"):
        eventually(lambda: all(_is_ready(host, name) for name in names), "all are there", 60)
        with importable_stack():
            stack: Any = importlib.import_module(CACHE_MODULE)
            cache = stack.CompileCacheFs(stack.CacheUrl(str(host.cache), url_type="fs"))
            keys = [name.key.removeprefix("MODULE_").partition("+")[0] for name in names]
            ours, stock = list[float](), list[float]()
            for _ in range(5):
                stock.append(_look_up(cache, keys, host.home / "copy"))
                hook = Hook(Asker(str(host.socket)), Notices())
                hook.patch(stack)
                try:
                    ours.append(_look_up(cache, keys, host.home / "copy"))
                finally:
                    hook.unpatch()
    return min(ours), min(stock)


def _look_up(cache: Any, keys: list[str], copy: Path) -> float:
    began = time.perf_counter()
    for key in keys:
        with cache.lookup(key, entries.FLAGS) as entry:
            entry.download_neff(str(copy))
    return time.perf_counter() - began


def _started_together(host: Daemon, names: list[ModuleName]) -> float:
    """Seconds from the trainer's greeting to its last answer, asked one after another."""
    with host:
        at_rest(host)
        host.cache.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with _run(host, "together") as client:
            for name in names:
                if not _is_ready(host, name):
                    answers = client.ask("resolve", namespace=name.namespace, keys=[name.key])
                    if not any(answer.get("state") == "ready" for answer in answers):
                        raise SystemExit(f"not fetched: {answers}\n{host.log}")
        return time.monotonic() - began


def _is_ready(host: Daemon, name: ModuleName) -> bool:
    return (host.cache / name.namespace / name.key / "model.done").exists()


@contextlib.contextmanager
def _run(host: Daemon, instance: str) -> Iterator[RawClient]:
    host.cache.mkdir(parents=True, exist_ok=True)
    facts = host.cache.stat()
    key = "RUN_" + hashlib.sha256(json.dumps(_INGREDIENTS, sort_keys=True).encode()).hexdigest()[:32]
    run = {"key": key, "instance": instance, "ingredients": _INGREDIENTS, "private": False}
    root = {"root": str(host.cache), "device": facts.st_dev, "inode": facts.st_ino, "pid": os.getpid()}
    with contextlib.closing(RawClient(host.socket, {**root, "run": run}, timeout_s=60)) as client:
        yield client
