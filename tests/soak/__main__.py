"""Mixed work for SOAK_S seconds (default 3,600): uploads, fetches, misses on two hosts, and a Hub that keeps failing.

Ends with a line of figures; the exit code is 0 only if nothing was lost, torn, doubled or stuck, and open files and
threads are those of the first minute.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from neff.keys import ModuleName
from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.hub.process import HubProcess
from tests.soak.usage import Usage, growth_mb_per_hour, sample

_REPO = "alice/cache"
_SETTLED_SHARE = 1 / 6  # the first ten minutes of an hour are warming up
# More than fit into an hour's commits would only wait in the journals.
_ENTRY_EVERY_S = 2.0
_FAULTS: list[dict[str, Any]] = [
    {"match": "POST .*/commit/main", "status": 503},
    {"match": "POST .*/commit/main", "status": 504, "landed": True},
    {"match": "POST .*/commit/main", "kind": "reset", "landed": True},
    {"match": "POST .*/commit/main", "status": 412},
    {"match": "HEAD ", "status": 500},
    {"match": "HEAD ", "kind": "reset"},
    {"match": "paths-info", "status": 429, "headers": {"Retry-After": "1"}},
    {"match": "/resolve/", "kind": "reset"},
    {"match": "/content/", "kind": "truncate", "after_bytes": 1000},
    {"match": "/content/", "kind": "corrupt"},
    {"match": "/tree/", "status": 502},
]


class Soak:
    """Two hosts and a Hub, worked on at random.

    Args:
        seed: makes the order of the work the same again.
    """

    def __init__(self, folder: Path, hub: HubProcess, seed: int) -> None:
        self.hub = hub
        self._chance = random.Random(seed)
        self._next_entry_at = 0.0
        token_file = folder / "token"
        token_file.write_text(hub.token("alice"))
        remote = {
            "name": "hub",
            "url": f"hf://{_REPO}",
            "mode": "read-write",
            "endpoint": hub.endpoint,
            "token_file": str(token_file),
            "poll_s": 5,
        }
        upload = {"upload": {"quiet_s": 2, "max_delay_s": 10, "settle_s": 0.3}}
        self.hosts = [Daemon(folder / name, [remote], upload) for name in ("a", "b")]
        self.made: dict[ModuleName, dict[str, bytes]] = {}
        self.faults = 0
        self.samples: dict[str, list[Usage]] = {host.home.name: [] for host in self.hosts}

    def step(self) -> None:
        """One piece of work: an entry, a fetch, a question for what nobody has, or a fault."""
        host, kind = self._chance.choice(self.hosts), self._chance.random()
        if kind < 0.3 and time.monotonic() >= self._next_entry_at:
            self._next_entry_at = time.monotonic() + _ENTRY_EVERY_S
            name = entries.module(len(self.made))
            size_bytes = self._chance.choice([3_000, 20_000, 400_000])
            content = entries.files(name, seed=len(self.made))
            self.made[name] = content | {"model.neff": entries.neff_bytes(len(self.made), size_bytes)}
            entries.write(host.cache, name, self.made[name])
        elif kind < 0.6 and self.made:
            host.ask("prefetch", names=[str(self._chance.choice(list(self.made)))], wait=True)
        elif kind < 0.9:
            host.ask("prefetch", names=[str(entries.module(10**6 + self._chance.randrange(1000)))], wait=True)
        else:
            self.hub.add_fault(**self._chance.choice(_FAULTS))
            self.faults += 1

    def watch(self, at_s: float) -> None:
        """Take a sample of both daemons."""
        for host in self.hosts:
            self.samples[host.home.name].append(sample(host.pid, at_s))

    def finish(self) -> dict[str, int]:
        """End the faults, let everything arrive, and count what is wrong."""
        self.hub.clear_faults()
        stuck = sum(host.ask("flush", timeout_s=300)[-1]["pending"] for host in self.hosts)
        on_hub = self.hub.read_files(_REPO)
        lost = torn = 0
        for name, content in self.made.items():
            prefix = f"{name}/"
            there = {path.removeprefix(prefix): on_hub[path] for path in on_hub if path.startswith(prefix)}
            lost += not there
            torn += bool(there) and entries.shared(there) != content
        messages = "\n".join(str(commit["message"]) for commit in self.hub.commits(_REPO))
        doubled = sum(messages.count(f"{name}\n") > 1 for name in self.made)
        for host in self.hosts:
            for module in host.cache.glob("neuronxcc-*/MODULE_*"):
                name = ModuleName(module.parent.name, module.name)
                torn += entries.read(host.cache, name) != self.made[name]
        return {"lost": lost, "torn": torn, "doubled": doubled, "stuck": stuck}


def main() -> int:
    length_s = float(os.environ.get("SOAK_S", "3600"))
    seed = int(os.environ.get("SOAK_SEED", random.SystemRandom().randrange(10**6)))
    print(f"SOAK_S={length_s:g} SOAK_SEED={seed}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="neffd-soak-") as folder,
        HubProcess(Path(folder) / "hub") as hub,
        contextlib.ExitStack() as stack,
    ):
        hub.seed_files(_REPO, {}, private=True)
        soak = Soak(Path(folder), hub, seed)
        for host in soak.hosts:
            stack.enter_context(host)
        work(soak, length_s)
        wrong = soak.finish()
        soak.watch(length_s)
        return report(soak, length_s, wrong)


def work(soak: Soak, length_s: float) -> None:
    """Steps until the time is over, with a sample now and then."""
    began = time.monotonic()
    next_sample_s = min(60.0, length_s / 20)
    while (now_s := time.monotonic() - began) < length_s:
        soak.step()
        if now_s >= next_sample_s:
            soak.watch(now_s)
            next_sample_s += min(60.0, length_s / 20)
        time.sleep(0.02)  # an hour of work, not of spinning


def report(soak: Soak, length_s: float, wrong: dict[str, int]) -> int:
    """Print the figures; returns the exit code."""
    is_same = True
    for host, samples in soak.samples.items():
        first, last = samples[0], samples[-1]
        warm = [seen for seen in samples if seen.at_s >= length_s * _SETTLED_SHARE]
        print(
            f"host {host}: files {first.files} -> {last.files}, threads {first.threads} -> {last.threads}, "
            f"memory {first.memory_mb:.1f} -> {last.memory_mb:.1f} MB, {growth_mb_per_hour(warm):+.2f} MB an hour"
        )
        is_same &= last.files <= first.files + _SLACK and last.threads <= first.threads + _SLACK
    print(
        f"seconds {length_s:g}, entries made {len(soak.made)}, faults {soak.faults}, commits "
        f"{len(soak.hub.commits(_REPO))}, " + ", ".join(f"{what} {count}" for what, count in wrong.items())
    )
    return 0 if is_same and not any(wrong.values()) else 1


# A connection that is kept alive, or a worker thread started late, is no leak.
_SLACK = 8


if __name__ == "__main__":
    sys.exit(main())
