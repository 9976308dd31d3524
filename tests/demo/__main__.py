"""Two hosts, one remote: host A compiles real graphs, neffd shares them, host B compiles nothing.

Exit code 0 only if host B compiled no graph and every byte of every entry agrees.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.demo.between import Between, open_between
from tests.demo.trainer_run import Step, TrainerRun, train
from tests.harness.daemon import Daemon

_COMPILE_S = 1.5
# As in production: what is compiled within ten seconds goes together.
_OVERRIDES = {"upload": {"quiet_s": 10, "max_delay_s": 120, "settle_s": 2}}


@dataclass(frozen=True)
class Row:
    """One host in the table."""

    label: str
    run: TrainerRun
    moved_bytes: int
    traffic: dict[str, int]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("--remote", choices=("hub", "directory"), default="hub", help="default: %(default)s")
    parser.add_argument("--compile-s", type=float, default=_COMPILE_S, help="seconds a compile takes (%(default)s)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="neffd-demo-"))
    try:
        with open_between(options.remote, folder) as between:
            return demo(folder, between, options.compile_s)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def demo(folder: Path, between: Between, compile_s: float) -> int:
    """Run both hosts below `folder`; returns the exit code."""
    say(f"Two hosts, each with its own cache directory and its own neffd; {between.title}.")
    say(f"The graphs are real HLO modules; the compiler is a stand-in that takes {compile_s:g} s a graph.\n")
    remotes = between.remotes()
    with (
        Daemon(folder / "host-a", remotes, _OVERRIDES) as host_a,
        Daemon(folder / "host-b", remotes, _OVERRIDES) as host_b,
    ):
        between.traffic()
        first = run_host(host_a, "host a", between, compile_s, "neffd_published_bytes")
        second = run_host(host_b, "host b", between, compile_s, "neffd_fetched_bytes")
        problems = differences(host_a.cache, host_b.cache)
    print_table([first, second])
    if second.run.compiled:
        problems.append(f"host b compiled {second.run.compiled} graphs")
    if first.run.compiled == 0 or len(first.run.steps) != len(second.run.steps):
        problems.append("host a compiled nothing, or the hosts met different graphs")
    for problem in problems:
        say(f"WRONG: {problem}")
    if not problems:
        say("\nHost B compiled nothing, and every byte of every entry agrees.")
    return 1 if problems else 0


def run_host(host: Daemon, label: str, between: Between, compile_s: float, moved: str) -> Row:
    """One trainer from start to end, and until what it made has reached the remote."""
    say(f"{label}: the trainer starts")
    run = train(host, compile_s, show_step)
    if run.compiled:
        wait_for_uploads(host)
    say("")
    return Row(label, run, int(host.counter(moved, f"remote={between.name}")), between.traffic())


def show_step(step: Step) -> None:
    how = "compiled" if step.compiled else "found   "
    say(f"  {step.graph:<24} {how} {step.seconds:7.2f} s   {step.key}")


def wait_for_uploads(host: Daemon) -> None:
    """`neff flush` by its protocol, with what is left while it lasts."""
    began = time.monotonic()
    answers = host.ask("flush", timeout_s=60)
    for answer in answers[:-1]:
        say(f"  {answer['pending']} entries wait for the remote")
    if answers[-1]["pending"] or answers[-1]["parked"]:
        raise SystemExit(f"not everything reached the remote: {answers[-1]}\n{host.log}")
    say(f"  everything is on the remote, {time.monotonic() - began:.1f} s after the trainer ended")


def differences(one: Path, other: Path) -> list[str]:
    """Entries of two cache directories that are not the same to the byte."""
    files = {path.relative_to(root) for root in (one, other) for path in root.glob("neuronxcc-*/MODULE_*/*")}
    if not files:
        return ["there are no entries at all"]
    return [f"{file} differs" for file in sorted(files) if content(one / file) != content(other / file)]


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def print_table(rows: list[Row]) -> None:
    counted = list(rows[0].traffic)
    say("".join(f"{title:>10}" for title in ("", "graphs", "compiled", "fetched", "seconds", "MB moved", *counted)))
    for row in rows:
        met, run = len(row.run.steps), row.run
        cells = [row.label, met, run.compiled, met - run.compiled, f"{run.seconds:.1f}", f"{row.moved_bytes / 1e6:.2f}"]
        say("".join(f"{cell!s:>10}" for cell in [*cells, *(row.traffic[name] for name in counted)]))


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
