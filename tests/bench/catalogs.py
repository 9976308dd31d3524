"""What a large remote costs to know: a namespace of 10,000 keys in a repo, and a bucket of 200,000 files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.measure import Figure, resident_mb
from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess

_REPO, _BUCKET = "alice/large", "alice/huge"
_REPO_KEYS = 10_000
_BUCKET_KEYS, _FILES_OF_A_KEY = 40_000, 5
# So many files go into one call of the local Hub.
_SEEDED_AT_ONCE = 20_000
_LONGEST_S = 300.0


def bench_catalogs(folder: Path) -> list[Figure]:
    """Time until the listing is complete and what the daemon's resident memory gains, for both remotes."""
    with HubProcess(folder / "hub") as hub:
        for files in _batches(_REPO_KEYS, ("model.neff", "model.done")):
            hub.seed_files(_REPO, files, private=True)
        names = ("model.hlo_module.pb", "compile_flags.json", "model.neff", "neffd.json", "model.done")
        assert len(names) == _FILES_OF_A_KEY
        for files in _batches(_BUCKET_KEYS, names):
            hub.seed_bucket(_BUCKET, files, private=True)
        return [
            *_list(hub, folder / "repo", f"hf://{_REPO}", f"repo, {_REPO_KEYS:,} keys", _REPO_KEYS),
            *_list(
                hub,
                folder / "bucket",
                f"hf://buckets/{_BUCKET}",
                f"bucket, {_BUCKET_KEYS * _FILES_OF_A_KEY:,} files",
                _BUCKET_KEYS,
            ),
        ]


def _batches(keys: int, names: tuple[str, ...]) -> Iterator[dict[str, bytes]]:
    for start in range(0, keys, _SEEDED_AT_ONCE // len(names)):
        numbers = range(start, min(keys, start + _SEEDED_AT_ONCE // len(names)))
        yield {f"{entries.module(number)}/{name}": b"x" for number in numbers for name in names}


def _list(hub: HubProcess, home: Path, url: str, what: str, keys: int) -> list[Figure]:
    home.mkdir()
    token_file = home / "token"
    token_file.write_text(hub.token("alice"))
    remote = {"name": "hub", "url": url, "mode": "read", "endpoint": hub.endpoint, "token_file": str(token_file)}
    with Daemon(home / "host", [{**remote, "poll_s": 3600}]) as host:
        idle_mb = resident_mb(host.pid)
        hub.reset_counters()
        began = time.monotonic()
        host.ask("prefetch", names=[str(entries.module(10**6))], wait=False)
        eventually(lambda: _catalog(host)["namespaces"] == 1, "the listing", timeout_s=_LONGEST_S)
        listed_s = time.monotonic() - began
        assert _catalog(host)["keys"] == keys
        requests = sum(hub.counters()["requests"].values())
        gained_mb = resident_mb(host.pid) - idle_mb
        assert host.stop() == 0
        host.start()
        began = time.monotonic()
        eventually(lambda: _catalog(host)["keys"] == keys, "the saved listing", timeout_s=_LONGEST_S)
        restored_s = time.monotonic() - began
    return [
        Figure(f"{what}: listed", listed_s, "s"),
        Figure(f"{what}: requests", requests, ""),
        Figure(f"{what}: resident memory gained", gained_mb, "MB"),
        Figure(f"{what}: known again after a restart", restored_s, "s"),
    ]


def _catalog(host: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = host.status()["remotes"][0]["catalog"]
    return found
