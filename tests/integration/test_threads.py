"""A real daemon's threads: as many from its start as after its busiest moment."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.harness import entries
from tests.harness.daemon import Daemon, RawClient
from tests.harness.waiting import eventually
from tests.integration.conftest import MakeDaemon


def threads(host: Daemon) -> int:
    return len(list(Path(f"/proc/{host.pid}/task").iterdir()))


def test_a_busy_moment_leaves_no_threads(make_daemon: MakeDaemon, shared: Path) -> None:
    names = [entries.module(number) for number in range(30)]
    for name in names:
        entries.write(shared, name, entries.files(name))
    with make_daemon("a") as host:
        entries.write(host.cache, entries.module(99), entries.files(entries.module(99)))
        host.wait_until_pushed(1)  # so what there is to be watched is watched
        before = eventually(lambda: threads(host), "its threads")

        def ask(number: int) -> None:
            with contextlib.closing(RawClient(host.socket, {"root": str(host.cache)})) as trainer:
                trainer.ask("resolve", namespace=entries.NAMESPACE, keys=[entries.module(number).key])

        with ThreadPoolExecutor(16) as askers:
            list(askers.map(ask, range(60)))  # half of them are not there
        assert host.counter("neffd_fetched_entries", "remote=shared") == len(names)
        eventually(lambda: threads(host) <= before, "no more of them")
