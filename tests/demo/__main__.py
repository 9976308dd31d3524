"""Two hosts, one remote: host A compiles real graphs, neffd shares them, host B compiles nothing.

Exit code 0 only if host B compiled no graph and every byte of every entry agrees.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.demo.trainer_run import Step, TrainerRun, train
from tests.harness.daemon import Daemon

_COMPILE_S = 1.5


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("--compile-s", type=float, default=_COMPILE_S, help="seconds a compile takes (%(default)s)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="neffd-demo-"))
    try:
        return demo(folder, options.compile_s)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def demo(folder: Path, compile_s: float) -> int:
    """Run both hosts below `folder`; returns the exit code."""
    remote = folder / "shared"
    remote.mkdir()
    remotes: list[dict[str, Any]] = [
        {"name": "shared", "url": f"file://{remote}", "mode": "read-write", "poll_s": 1},
    ]
    say("Two hosts, each with its own cache directory and its own neffd; between them one shared directory.")
    say(f"The graphs are real HLO modules; the compiler is a stand-in that takes {compile_s:g} s a graph.\n")
    with Daemon(folder / "host-a", remotes) as host_a, Daemon(folder / "host-b", remotes) as host_b:
        runs = {}
        for host in (host_a, host_b):
            label = host.home.name.replace("-", " ")
            say(f"{label}: the trainer starts")
            runs[label] = train(host, compile_s, show_step)
            if host is host_a:
                wait_for_uploads(host)
            say("")
        fetched_bytes = int(host_b.counter("neffd_fetched_bytes", "remote=shared"))
        shared_bytes = int(host_a.counter("neffd_published_bytes", "remote=shared"))
        problems = differences(host_a.cache, host_b.cache)
    print_table(runs, {"host a": shared_bytes, "host b": fetched_bytes})
    if runs["host b"].compiled:
        problems.append(f"host b compiled {runs['host b'].compiled} graphs")
    if runs["host a"].compiled == 0 or len(runs["host a"].steps) != len(runs["host b"].steps):
        problems.append("host a compiled nothing, or the hosts met different graphs")
    for problem in problems:
        say(f"WRONG: {problem}")
    if not problems:
        say("\nHost B compiled nothing, and every byte of every entry agrees.")
    return 1 if problems else 0


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
        raise SystemExit(f"not everything reached the remote: {answers[-1]}")
    say(f"  everything is on the remote, {time.monotonic() - began:.1f} s after the trainer ended")


def differences(one: Path, other: Path) -> list[str]:
    """Entries of two cache directories that are not the same to the byte."""
    files = {path.relative_to(root) for root in (one, other) for path in root.glob("neuronxcc-*/MODULE_*/*")}
    if not files:
        return ["there are no entries at all"]
    return [f"{file} differs" for file in sorted(files) if content(one / file) != content(other / file)]


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def print_table(runs: dict[str, TrainerRun], moved_bytes: dict[str, int]) -> None:
    say(f"{'':<8} {'graphs':>7} {'compiled':>9} {'fetched':>8} {'seconds':>8} {'MB moved':>9}")
    for label, run in runs.items():
        met = len(run.steps)
        megabytes = moved_bytes[label] / 1e6
        say(f"{label:<8} {met:>7} {run.compiled:>9} {met - run.compiled:>8} {run.seconds:>8.1f} {megabytes:>9.2f}")


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
