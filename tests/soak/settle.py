"""The end of a run: everything comes to rest, and what does not is stuck."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.runs.recorder import IDLE_S
from neffd.store.space import OVER_LIMIT
from tests.harness import entries
from tests.harness.processes import command_line
from tests.harness.waiting import eventually
from tests.soak.crew import HANGS_AFTER_S, Member
from tests.soak.host import Host
from tests.soak.job import is_shared
from tests.soak.judge import Violation

_READY_S = 40.0
# A Hub that said "too many commits" is left alone for five minutes.
_FLUSH_S = 420.0
_CALM_S = 40.0
# A run whose trainers are gone may come back, and keeps what it used for so long.
_PINNED_S = IDLE_S + 90.0
_SWEEP_EXTRA = 20


def all_ready(hosts: Sequence[Host]) -> list[Violation]:
    """Every daemon comes up."""
    return [
        Violation("stuck", f"the daemon of host {host.name} does not get ready", str(host.log_path))
        for host in hosts
        if not host.is_ready.wait(_READY_S)
    ]


def sweep(members: Sequence[Member], numbers: dict[ModuleName, int]) -> list[Violation]:
    """On each host a new trainer has everything that lies about unfinished, and some more."""
    started = []
    for member in {member.host.name: member for member in members}.values():
        unfinished = sorted(number for name, number in numbers.items() if _is_unfinished(member.host, name))
        wanted = [*unfinished, *[number for number in numbers.values() if is_shared(number)][-_SWEEP_EXTRA:]]
        started.append((member, len(wanted), member.start(wanted)))
    violations = []
    for member, count, process in started:
        limit_s = HANGS_AFTER_S + 10 * count
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            member.kill(with_compiler=True)
            code = -1
        if code != 0:
            what = f"a new trainer on host {member.host.name} cannot have every graph (exit code {code})"
            violations.append(Violation("stuck", what, str(member.records)))
    return violations


def flush(hosts: Sequence[Host]) -> list[Violation]:
    """Every journal empties itself, and nothing is parked."""
    violations = []
    deadline = time.monotonic() + _FLUSH_S
    for host in hosts:
        last: dict[str, Any] = {"pending": None}
        while last["pending"] != 0 and time.monotonic() < deadline:
            answers = host.question("flush", timeout_s=20)
            last = answers[-1] if answers else last
        if last["pending"] != 0:
            trouble = host.status()["remotes"][0]
            what = f"{last['pending']} entries of host {host.name} do not go out: {trouble['reason']}"
            violations.append(Violation("stuck", what, str(host.log_path)))
        for parked in last.get("parked", []):
            what = f"{parked['name']} of host {host.name} is parked: {parked['reason']}"
            violations.append(Violation("stuck", what, str(host.log_path)))
    return violations


def nothing_left(hosts: Sequence[Host]) -> list[Violation]:
    """No lock, no transfer, no half-made thing of ours."""
    violations = []
    for host in hosts:
        for limit_s, may_stay in ((_CALM_S, OVER_LIMIT), (_PINNED_S, None)):
            with contextlib.suppress(AssertionError):
                eventually(lambda host=host, but=may_stay: not list(_left(host, but)), "nothing left", limit_s)  # type: ignore[misc]
        violations += [Violation("stuck", f"host {host.name}: {left}", str(host.home)) for left in _left(host)]
    return violations


def ended(hosts: Sequence[Host], folder: Path) -> list[Violation]:
    """Every daemon ends when it is told to, and no process of it stays."""
    violations = []
    for host in hosts:
        try:
            code = host.end()
        except subprocess.TimeoutExpired:
            host.abandon()
            code = -1
        if code != 0:
            what = f"the daemon of host {host.name} does not stop in order (exit code {code})"
            violations.append(Violation("stuck", what, str(host.log_path)))
    with contextlib.suppress(AssertionError):
        eventually(lambda: not list(_workers(folder)), "workers end with their daemon", _CALM_S)
    violations += [Violation("stuck", f"worker process {pid} outlives its daemon") for pid in _workers(folder)]
    return violations


def ready_entries(host: Host) -> dict[ModuleName, dict[str, bytes]]:
    """Every entry of a host that is ready, with its files."""
    found = {}
    for folder in host.cache.glob("neuronxcc-*/MODULE_*"):
        name = ModuleName(folder.parent.name, folder.name)
        files = entries.read(host.cache, name)
        if xla.state(name.namespace, {file: len(data) for file, data in files.items()}) is xla.State.READY:
            found[name] = files
    return found


def _is_unfinished(host: Host, name: ModuleName) -> bool:
    folder = host.cache / name.namespace / name.key
    return folder.is_dir() and not (folder / xla.DONE).exists()


def _left(host: Host, but: str | None = None) -> Iterator[str]:
    """What does not belong to rest; problems for the reason `but` do."""
    status = host.status()
    for what in ("compiling", "fetching", "orphaned"):
        if status[what]:
            yield f"{what} {status[what]}"
    for problem in status["cache_dirs"][0]["problems"]:
        if problem["reason"] != but:
            yield f"problem {problem}"
    for lock in host.locks():
        yield f"lock {lock}"
    for name in (ModuleName(path.parent.name, path.name) for path in host.cache.glob("neuronxcc-*/MODULE_*")):
        if _is_unfinished(host, name):
            yield f"half-made entry {name}"
    staging = Path(status["cache_dirs"][0]["staging"])
    for folder, _, files in os.walk(staging):
        kept = {"refused", "failed"} & set(Path(folder).relative_to(staging).parts)
        if files and not kept and files != ["neffd.lock"]:
            yield f"left in the staging folder: {folder}: {sorted(files)}"


def _workers(folder: Path) -> Iterator[int]:
    """Upload processes of daemons whose files are below `folder`."""
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and "neffd.remotes.hub.worker" in command_line(int(process.name)):
            with contextlib.suppress(OSError):
                if os.fsencode(folder) in (process / "environ").read_bytes():
                    yield int(process.name)
