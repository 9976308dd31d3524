"""One trainer on one host of the demo: what it met, and how long each graph took."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.harness.daemon import Daemon, python_path
from tests.neuron.env import standin_env


@dataclass(frozen=True)
class Step:
    """One graph as the trainer met it."""

    graph: str
    key: str
    seconds: float
    compiled: bool
    neff_sha256: str


@dataclass(frozen=True)
class TrainerRun:
    """All graphs of one trainer."""

    steps: list[Step]
    seconds: float

    @property
    def compiled(self) -> int:
        return sum(step.compiled for step in self.steps)


def train(host: Daemon, compile_s: float, on_step: Callable[[Step], None]) -> TrainerRun:
    """Run the trainer on `host` to its end; raises SystemExit with its errors if it fails.

    Args:
        compile_s: how long the stand-in compiler works on each graph.
        on_step: called as soon as a graph is there.
    """
    environ = standin_env(host.cache, compile_s=compile_s)
    environ["PYTHONPATH"] = f"{environ['PYTHONPATH']}:{python_path()}"
    environ["NEFFD_SOCKET"] = str(host.socket)
    began = time.monotonic()
    errors = host.home / "trainer.log"
    steps = []
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "tests.neuron.trainer", "--install-neff"],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=Path(__file__).resolve().parents[2],
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(b"{"):
                steps.append(Step(**json.loads(line)))
                on_step(steps[-1])
    if process.returncode != 0:
        raise SystemExit(f"the trainer on {host.home.name} failed:\n{errors.read_text()}")
    return TrainerRun(steps, time.monotonic() - began)
