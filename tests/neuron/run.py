"""Running the stand-in from tests: child processes, and the compiles they made."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.neuron.env import NEURON_DIR, importable_stack, standin_env

WAIT_LIMIT_S = 20
T = TypeVar("T")
Json = dict[str, Any]


def compile_log(root: Path) -> Path:
    return root.with_name(f"{root.name}.compiles")


def compiles(root: Path) -> list[Json]:
    """One item for each time that a compiler started for this cache root."""
    log = compile_log(root)
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def start(script: str, root: Path, *arguments: str, flags: str = "", **switches: object) -> subprocess.Popen[str]:
    """A script of this folder as a child."""
    return subprocess.Popen(
        [sys.executable, str(NEURON_DIR / script), *arguments],
        env=standin_env(root, flags=flags, compile_log=compile_log(root), **switches),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def start_trainer(root: Path, *arguments: str, flags: str = "", **switches: object) -> subprocess.Popen[str]:
    return start("trainer.py", root, *arguments, flags=flags, **switches)


def finish(child: subprocess.Popen[str]) -> list[Json]:
    """The JSON lines of a child that has to end well."""
    output, errors = child.communicate(timeout=WAIT_LIMIT_S)
    assert child.returncode == 0, errors
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def until(look: Callable[[], T], what: str) -> T:
    """The first true result."""
    deadline_s = time.monotonic() + WAIT_LIMIT_S
    while time.monotonic() < deadline_s:
        if found := look():
            return found
        time.sleep(0.005)
    raise AssertionError(f"never happened: {what}")


def file_names(directory: Path, pattern: str = "**/*") -> set[str]:
    return {path.name for path in directory.glob(pattern) if path.is_file()}


@contextmanager
def stack_in_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in importable here, with the environment that children get."""
    for name, value in standin_env(root, compile_log=compile_log(root)).items():
        if name.startswith("NEURON_") or name == "PATH":
            monkeypatch.setenv(name, value)
    with importable_stack():
        yield


def switch(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"NEURON_STANDIN_{name.upper()}", str(value))
