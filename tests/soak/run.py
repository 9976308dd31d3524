"""One run from beginning to end: three hosts that are hit, one that is not, nine trainers, a Hub."""

from __future__ import annotations

import sqlite3
import statistics
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from neff.keys import ModuleName
from tests.soak import graphs, records, settle
from tests.soak.caretaker import Caretaker
from tests.soak.chaos import Chaos
from tests.soak.crew import Crew, Member
from tests.soak.disk import SmallDisk
from tests.soak.host import Host
from tests.soak.hub_side import HubSide
from tests.soak.job import graphs_so_far
from tests.soak.judge import Found, Violation, by_entry, judge
from tests.soak.plan import Kind, Settings, draw, is_kill
from tests.soak.records import Told
from tests.soak.report import Report
from tests.soak.wallclock import WallClock
from tests.soak.witness import Witness

# Eight trainers on the three hosts that are hit, one more on the witness.
_TRAINERS = ("a", "a", "a", "b", "b", "b", "c", "c", "witness")
# A run keeps what it uses from being evicted: runs that end let the witness hold as much all the time.
_LIVES_S = {"witness": 120.0}
# Between two kills of its daemon a host has to come to a commit now and then.
_SEND_EVERY_S = 70.0
_WITNESS_SENDS_EVERY_S = 120.0
_LIMITS: dict[str, dict[str, Any]] = {
    "a": {"max_bytes": 4_000_000},
    "b": {"max_entries": 60},
    "c": {"max_entries": 100},
    "witness": {"max_entries": 80},
}


class Soak:
    """All parts of a run below `folder`."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._hub = HubSide(folder / "hub")
        self._disk = SmallDisk(folder / "disk")
        self._clock = WallClock(folder / "clock")
        self._hosts: list[Host] = []
        self._crew = Crew([])
        self._began_s = 0.0

    @property
    def left_out(self) -> list[str]:
        """What this machine does not permit."""
        missing = {"disk full": self._disk.missing, "clock jumps": self._clock.missing}
        return [f"{what}: {why}" for what, why in missing.items() if why]

    def run(self) -> Report:
        """Set up, hit, settle, judge."""
        try:
            self._set_up()
            return self._work()
        finally:
            self._crew.abandon()
            for host in self._hosts:
                host.abandon()
            self._hub.end()

    def close(self) -> None:
        """Give the disk back."""
        self._disk.close()

    def _set_up(self) -> None:
        self._hub.begin()
        remote = self._hub.remote(self._folder / "token")
        for name in dict.fromkeys(_TRAINERS):
            disk, clock = self._disk if name == "a" else None, self._clock if name == "b" else None
            leak_mb = self._settings.leak_mb if name == "witness" else 0.0
            self._hosts.append(Host(self._folder / name, remote, self._overrides(name), disk, clock, leak_mb))
        for host in self._hosts:
            host.begin()
        for host in self._hosts:
            if not host.is_ready.wait(60):
                raise RuntimeError(f"{host.name} does not start:\n{host.log}")
        self._began_s = time.monotonic()
        by_name = {host.name: host for host in self._hosts}
        home_s, seed = 2 * self._send_every_s(_SEND_EVERY_S) + 5, self._settings.seed
        self._crew = Crew(
            [
                Member(f"{name}-{number}", by_name[name], self._folder, self._began_s, home_s, seed, _LIVES_S.get(name))
                for number, name in enumerate(_TRAINERS)
            ]
        )

    def _send_every_s(self, longest_s: float) -> float:
        """A short run must send too."""
        return max(3.0, min(longest_s, self._settings.length_s / 30))

    def _overrides(self, name: str) -> dict[str, Any]:
        delay_s = self._send_every_s(_WITNESS_SENDS_EVERY_S if name == "witness" else _SEND_EVERY_S)
        return {
            "scan_s": 15,
            "upload": {"quiet_s": delay_s / 2, "max_delay_s": delay_s, "settle_s": 0.5},
            "store": {**_LIMITS[name], "keep_used_s": 5},
        }

    def _work(self) -> Report:
        *hit, spared = self._hosts
        witness = Witness(spared, self._folder / f"{spared.name}.orders", self._began_s, self._settings.length_s)
        caretaker = Caretaker(self._hosts)
        chaos = Chaos(hit, self._crew, self._hub, self._began_s, self._settings.seed)
        self._crew.begin()
        witness.begin()
        caretaker.begin()
        chaos.run(draw(self._settings), self._settings.length_s)
        seconds = time.monotonic() - self._began_s
        chaos.end()
        self._hub.heal()
        violations = self._come_to_rest(witness, caretaker)
        told = records.read(self._folder.glob("*.records"))
        found = self._read(told)
        violations += [*judge(found), *self._torn_under_eyes(told), *self._own_ends()]
        figures = {**self._figures(seconds, chaos, told, found), "locks removed by hand": caretaker.removed}
        details = {
            "seed": self._settings.seed,
            "left_out": self.left_out,
            "done": {kind.value: count for kind, count in chaos.done.items()},
            "faults": dict(self._hub.faults),
            "ready_s": {host.name: _spread(host.ready_s) for host in self._hosts},
            "step_s": _spread(told.steps_s),
        }
        return Report(figures, details, violations, witness.samples, witness.first, witness.last)

    def _come_to_rest(self, witness: Witness, caretaker: Caretaker) -> list[Violation]:
        self._crew.end()
        caretaker.end()
        numbers = self._numbers()
        violations = settle.all_ready(self._hosts)
        if violations:
            return violations
        caretaker.look()
        violations += settle.sweep(self._crew.members, numbers)
        violations += settle.flush(self._hosts)
        violations += settle.nothing_left(self._hosts)
        witness.end()
        return violations + settle.ended(self._hosts, self._folder)

    def _numbers(self) -> dict[ModuleName, int]:
        return graphs.names(range(graphs_so_far(time.monotonic() - self._began_s)))

    def _read(self, told: Told) -> Found:
        return Found(
            numbers=self._numbers(),
            compiled=told.compiled,
            had=told.had,
            remote={name: files for name, files in by_entry(self._hub.files()).items() if "MODULE_" in name.key},
            waiting={name for host in self._hosts for name in _journaled(Path(host.config["state_dir"]))},
            caches={host.name: settle.ready_entries(host) for host in self._hosts},
            commits=self._hub.commits(),
        )

    def _torn_under_eyes(self, told: Told) -> list[Violation]:
        torn = [
            Violation("torn", f"{seen['who']} read {seen['name']}: {seen['flaw']}", seen["kept"]) for seen in told.torn
        ]
        return torn + [
            Violation("torn", f"{seen['who']} failed at graph {seen['number']}: {seen['error']}") for seen in told.odd
        ]

    def _own_ends(self) -> list[Violation]:
        """Daemons and trainers that ended unasked, or hung."""
        violations = []
        for host in self._hosts:
            if host.own_ends:
                what = f"the daemon of host {host.name} ended by itself (exit codes {host.own_ends})"
                violations.append(Violation("stuck", what, str(host.log_path)))
            if " crashed" in host.log:
                violations.append(Violation("stuck", f"a task of host {host.name} crashed", str(host.log_path)))
        for member in self._crew.members:
            if member.own_ends:
                what = f"trainer {member.who} ended by itself (exit codes {member.own_ends})"
                violations.append(Violation("stuck", what, str(member.errors)))
            if member.hung:
                violations.append(
                    Violation("stuck", f"trainer {member.who} hung {member.hung} times", str(member.records))
                )
        return violations

    def _figures(self, seconds: float, chaos: Chaos, told: Told, found: Found) -> dict[str, float]:
        done = chaos.done
        return {
            "seconds": round(seconds),
            "kills": sum(count for kind, count in done.items() if is_kill(kind)),
            "restarts": sum(host.restarts for host in self._hosts),
            "stalls": done[Kind.STALL],
            "disks full": done[Kind.FILL_DISK],
            "clock jumps": done[Kind.JUMP_CLOCK],
            "Hub outages": self._hub.outages,
            "faults injected": sum(self._hub.faults.values()),
            "entries read and checked": told.checked,
            "compiles": told.compiles,
            "entries made": len(told.compiled),
            "entries on the remote": len(found.remote),
            "commits": len(found.commits),
        }


def _journaled(state_dir: Path) -> list[ModuleName]:
    """What a stopped daemon's journal holds."""
    with closing(sqlite3.connect(f"{(state_dir / 'neffd.db').as_uri()}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT DISTINCT namespace, key FROM outbox").fetchall()
    return [ModuleName(*row) for row in rows]


def _spread(values: list[float]) -> dict[str, float]:
    """Median, 99th percentile, most."""
    if not values:
        return {}
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 3),
        "p99": round(ordered[len(ordered) * 99 // 100], 3),
        "most": round(ordered[-1], 3),
    }
