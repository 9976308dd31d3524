"""The Hub of the soak: one private repo, its faults, its outages, and how much of them took effect."""

from __future__ import annotations

import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from neffd.layouts import xla
from tests.harness import entries
from tests.hub.process import HubProcess

REPO = "alice/cache"
# What others have published long ago. So large that what a daemon knows of it grows little during a run: a leak can
# only be told where the data do not grow. No run made so much at once, so that nobody guesses to need it.
_OLD_ENTRIES = 1_500
_SMALLEST = {xla.NEFF: b"\0neff", xla.DONE: b""}
# The Hub's own limit for everybody who shares a token.
COMMITS_PER_HOUR = 128
_COMMIT = "POST .*/commit/main"
_FAULTS: tuple[dict[str, Any], ...] = (
    {"match": _COMMIT, "status": 503},
    {"match": _COMMIT, "status": 500, "landed": True},
    {"match": _COMMIT, "status": 504, "landed": True},
    {"match": _COMMIT, "kind": "reset"},
    {"match": _COMMIT, "kind": "reset", "landed": True},
    {"match": _COMMIT, "status": 412},
    {"match": _COMMIT, "kind": "stall", "stall_s": 8},
    {"match": "POST .*/preupload/", "status": 502},
    {"match": "/xet-write-token/", "status": 500},
    {"match": "/xet-read-token/", "status": 500},
    {"match": "POST /v./(shards|xorb)", "status": 500},
    {"match": "POST /v./(shards|xorb)", "kind": "reset"},
    {"match": "HEAD ", "status": 500},
    {"match": "HEAD ", "kind": "reset"},
    {"match": "HEAD ", "kind": "stall", "stall_s": 6},
    {"match": "paths-info", "status": 429, "headers": {"Retry-After": "1"}},
    {"match": "paths-info", "status": 504},
    {"match": "paths-info", "kind": "truncate", "after_bytes": 40},
    {"match": "/tree/", "status": 502},
    {"match": "/tree/", "kind": "truncate", "after_bytes": 200},
    {"match": "GET .*/resolve/", "kind": "reset"},
    {"match": "GET .*/resolve/", "status": 429, "headers": {"RateLimit": '"resolvers";r=0;t=3'}},
    {"match": "/content/", "kind": "truncate", "after_bytes": 1000},
    {"match": "/content/", "kind": "corrupt"},
    {"match": "/content/", "kind": "stall-body", "after_bytes": 500, "stall_s": 7},
    {"match": "/content/", "kind": "slow", "bytes_per_s": 4000},
    {"match": "/content/", "status": 403},
)


class HubSide:
    """The Hub with what is done to it.

    Attributes:
        outages: how often it was down.
    """

    def __init__(self, folder: Path) -> None:
        self._hub = HubProcess(folder, commit_s=0.5, latency_s=0.01, commit_quota=COMMITS_PER_HOUR)
        self._lock = threading.Lock()
        self._applied: Counter[str] = Counter()
        old = [entries.module(10**6 + number) for number in range(_OLD_ENTRIES)]
        self._old = {f"{name}/{file}": data for name in old for file, data in _SMALLEST.items()}
        self.outages = 0

    def begin(self) -> None:
        self._hub.start()
        self._hub.seed_files(REPO, self._old, private=True)

    def remote(self, token_file: Path) -> dict[str, Any]:
        """What a host's configuration says of it."""
        token_file.write_text(self._hub.token("alice"))
        return {
            "name": "hub",
            "url": f"hf://{REPO}",
            "mode": "read-write",
            "endpoint": self._hub.endpoint,
            "token_file": str(token_file),
            "poll_s": 5,
        }

    def add_fault(self, chance: random.Random) -> None:
        """One fault more; none of a kind that still waits for its request, so that they do not come in heaps."""
        wanted = chance.choice(_FAULTS)
        if not self._lock.acquire(blocking=False):
            return  # it is down
        try:
            waiting = [fault["match"] for fault in self._hub.faults() if fault["times"]]
            if wanted["match"] not in waiting:
                self._hub.add_fault(**wanted)
        finally:
            self._lock.release()

    def outage(self, seconds: float, wait: threading.Event) -> None:
        """Down at once, up again after a while or when `wait` is set."""
        with self._lock:
            self._count()
            self._hub.kill()
            self.outages += 1
            wait.wait(seconds)
            self._hub.start()

    def heal(self) -> None:
        """No faults and full quotas from now on."""
        with self._lock:
            self._count()
            self._hub.clear_faults()
            self._hub.reset_limits()

    @property
    def faults(self) -> Counter[str]:
        """How many faults took effect, by kind."""
        return self._applied

    def files(self) -> dict[str, bytes]:
        """Everything in the repo that was not there before."""
        return {path: content for path, content in self._hub.read_files(REPO).items() if path not in self._old}

    def commits(self) -> list[str]:
        """What each commit says that it brings."""
        return [str(commit["message"]) for commit in self._hub.commits(REPO)]

    def end(self) -> None:
        self._hub.kill()

    def _count(self) -> None:
        self._applied.update(fault["kind"] for fault in self._hub.faults() if fault["times"] == 0)
