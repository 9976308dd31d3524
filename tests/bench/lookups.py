"""What a question costs: the stat of a local hit, the socket round trip of a local miss, and the daemon's memory."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

from neff.keys import ModuleName
from tests.bench.measure import Figure, latencies_us, percentiles, resident_mb
from tests.harness import entries
from tests.harness.daemon import Daemon, RawClient

_CALLS = 10_000


def bench_lookups(folder: Path) -> list[Figure]:
    """Figures of one daemon with a directory remote below `folder`."""
    shared = folder / "shared"
    shared.mkdir()
    remotes = [{"name": "shared", "url": f"file://{shared}", "mode": "read-write", "poll_s": 60}]
    with Daemon(folder / "host", remotes) as host:
        started = time.monotonic()
        ready, absent = entries.module(1), entries.module(2)
        mark = entries.write(host.cache, ready, entries.files(ready)) / "model.done"
        figures = [Figure("resident memory, idle", resident_mb(host.pid), "MB")]
        with contextlib.closing(RawClient(host.socket, {"root": str(host.cache)})) as client:
            figures += percentiles("stat of a local entry", latencies_us(mark.exists, _CALLS))
            figures += percentiles("question, entry is here", latencies_us(lambda: ask(client, ready), _CALLS))
            figures += percentiles("question, known absent", latencies_us(lambda: ask(client, absent), _CALLS))
        figures.append(Figure("resident memory, after them", resident_mb(host.pid), "MB"))
        figures.append(Figure("wall time of all", time.monotonic() - started, "s"))
    return figures


def ask(client: RawClient, name: ModuleName) -> None:
    """One question as the hook asks it, with as little of Python around as possible."""
    question = {"id": 1, "op": "resolve", "namespace": name.namespace, "keys": [name.key]}
    client.socket.sendall(json.dumps(question).encode() + b"\n")
    received = b""
    while b'"done":true' not in received:
        received += client.socket.recv(4096)
