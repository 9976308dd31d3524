"""Many processes meet many graphs at once, and compilers and ranks are killed at random.

`STORM=64x20 python -m pytest tests/faults/test_storm.py` is the large one; `STORM_SEED` repeats one.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import PROJECT, Daemon, python_path
from tests.harness.files import below
from tests.harness.processes import children
from tests.harness.waiting import eventually
from tests.neuron.env import standin_env

RANKS, GRAPHS = map(int, os.environ.get("STORM", "16x6").split("x"))
SEED = int(os.environ.get("STORM_SEED") or secrets.randbelow(10**9))
KILLED_RANKS = RANKS // 4
KILLED_COMPILERS = max(2, GRAPHS // 3)
LIMIT_S = 20.0 + RANKS * GRAPHS / 4
# A rank that finds the daemon starved of processor time waits as stock does, which looks this often.
LOOK_S = 1.0


class Storm:
    """The ranks, what they told, and who was killed."""

    def __init__(self, host: Daemon, chance: random.Random) -> None:
        self.host = host
        self.events_path = host.home / "events"
        self.killed_ranks: set[int] = set()
        self.killed_compilers = 0
        self._chance = chance
        environ = standin_env(
            host.cache,
            flags="--retry_failed_compilation",
            compile_log=host.home / "compiles",
            compile_s=0.2,
            lock_probe_s=LOOK_S,
        )
        environ["NEFFD_SOCKET"] = str(host.socket)
        environ["PYTHONPATH"] = f"{environ['PYTHONPATH']}:{python_path()}"
        with (host.home / "errors").open("ab") as errors:
            self.ranks = [
                subprocess.Popen(
                    [sys.executable, "-m", "tests.faults.storm_rank", str(self.events_path), str(GRAPHS), str(seed)],
                    env=environ,
                    cwd=PROJECT,
                    stdout=errors,
                    stderr=errors,
                    start_new_session=True,
                )
                for seed in range(RANKS)
            ]

    def alive(self) -> list[subprocess.Popen[bytes]]:
        return [rank for rank in self.ranks if rank.poll() is None]

    def events(self) -> list[dict[str, Any]]:
        if not self.events_path.exists():
            return []
        return [json.loads(line) for line in self.events_path.read_text().splitlines()]

    def rage(self) -> None:
        """Kill ranks, with and without their compilers, and compilers alone, whoever is at it."""
        victims = ["rank"] * KILLED_RANKS + ["compiler"] * KILLED_COMPILERS
        self._chance.shuffle(victims)
        while victims and self.alive():
            time.sleep(self._chance.expovariate(1 / 0.15))
            compiling = [(rank, found) for rank in self.alive() if (found := children(rank.pid))]
            if not compiling:
                continue
            rank, compilers = self._chance.choice(compiling)
            if victims.pop() == "compiler":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(compilers[0], signal.SIGKILL)
                    self.killed_compilers += 1
            else:
                self.killed_ranks.add(rank.pid)
                self._kill_rank(rank)

    def _kill_rank(self, rank: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._chance.random() < 0.5:
                os.killpg(rank.pid, signal.SIGKILL)
            else:
                rank.kill()  # its compiler goes on

    def end(self) -> None:
        for rank in self.ranks:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(rank.pid, signal.SIGKILL)
            rank.wait()


@pytest.fixture
def storm(tmp_path: Path) -> Iterator[Storm]:
    print(f"STORM={RANKS}x{GRAPHS} STORM_SEED={SEED}")  # shown where the test fails
    with Daemon(tmp_path / "host", overrides={"fetch": {"stall_s": 5}}) as host:
        storm = Storm(host, random.Random(SEED))
        try:
            yield storm
        finally:
            storm.end()


@pytest.mark.timeout(LIMIT_S + 60)
def test_every_survivor_has_every_graph_and_each_is_compiled_once(storm: Storm) -> None:
    eventually(lambda: storm.events(), "the first rank is ready", LIMIT_S)
    storm.rage()
    print(f"killed {len(storm.killed_ranks)} ranks, {storm.killed_compilers} compilers")
    eventually(lambda: not storm.alive(), "all ranks have ended", LIMIT_S)
    for rank in storm.ranks:
        assert rank.returncode == (-signal.SIGKILL if rank.pid in storm.killed_ranks else 0)
    events = storm.events()
    _check_survivors(storm, events)
    _check_compiles(storm, events)
    eventually(lambda: below(storm.host.cache, "*.lock") == [], "no lock is left", 20)
    eventually(lambda: storm.host.status()["compiling"] == [], "nobody holds or waits", 20)
    assert storm.host.status()["cache_dirs"][0]["problems"] == []


def _check_survivors(storm: Storm, events: list[dict[str, Any]]) -> None:
    has: dict[int, dict[str, str]] = defaultdict(dict)
    for event in events:
        if event["what"] == "has":
            has[event["rank"]][event["graph"]] = event["sha256"]
    survivors = [rank.pid for rank in storm.ranks if rank.pid not in storm.killed_ranks]
    assert {len(has[pid]) for pid in survivors} == {GRAPHS}
    for graph in has[survivors[0]]:
        assert len({graphs[graph] for graphs in has.values() if graph in graphs}) == 1


def _check_compiles(storm: Storm, events: list[dict[str, Any]]) -> None:
    """Every compile was a graph's first that came to its end, or one that was killed."""
    told: dict[str, Counter[tuple[int, str]]] = defaultdict(Counter)
    for event in events:
        told[event["what"]][event["rank"], event.get("graph", "")] += 1
    starts: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for (rank, graph), count in told["starts"].items():
        failed = told["failed"][rank, graph]
        starts[graph] += count
        if (rank, graph) in told["has"]:
            lost[graph] += failed
        else:
            assert rank in storm.killed_ranks
            lost[graph] += count
    assert sum(lost.values()) <= storm.killed_compilers + len(storm.killed_ranks)
    assert len(starts) == GRAPHS
    for graph, count in starts.items():
        # None where a rank was killed between its ready mark and its word.
        assert count - lost[graph] in (0, 1), f"{graph}: {count} compiles, {lost[graph]} of them killed"
    assert sum((starts - lost).values()) >= GRAPHS - len(storm.killed_ranks)
