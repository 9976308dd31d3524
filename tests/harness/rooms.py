"""Where and as whom a command runs: another user, other mounts, other namespaces, without a container engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.harness.daemon import PROJECT, python_path
from tests.unit.store.as_user import User

ROOT = User(0, 0, umask=0o022)
# What a container engine gives a container of its own.
CONTAINER = ("pid", "net", "ipc", "uts")
# What an unprivileged container engine does besides.
ROOTLESS = ("user",)


class Mount(NamedTuple):
    """One mount of a room: `kind` is bind, overlay, or tmpfs (which has no source)."""

    kind: str
    source: str
    target: str


def bind(source: Path | str, target: Path | str | None = None) -> Mount:
    """`source` at `target`, else at its own path."""
    return Mount("bind", str(source), str(target or source))


def hide(folder: Path | str) -> Mount:
    """An empty folder over `folder`."""
    return Mount("tmpfs", "", str(folder))


def overlay(lower: Path | str, target: Path | str) -> Mount:
    """What `lower` holds, with a layer of its own for what is written; beside `target` there must be a tmpfs."""
    return Mount("overlay", str(lower), str(target))


@dataclass(frozen=True)
class Room:
    """A user, mounts in this order, and namespaces besides the one of mounts.

    This interpreter, its packages and the project stay where they are and can be reached, whoever the user is.
    """

    user: User = ROOT
    mounts: Sequence[Mount] = ()
    namespaces: Sequence[str] = ()

    def prefix(self) -> tuple[str, ...]:
        """What to put before a command."""
        facts = {
            "uid": self.user.uid,
            "gid": self.user.gid,
            "groups": list(self.user.groups),
            "umask": self.user.umask,
            "namespaces": list(self.namespaces),
            "mounts": [*_reach_interpreter(), *self.mounts],
        }
        return (sys.executable, "-I", "-S", str(PROJECT / "tests" / "harness" / "enter.py"), json.dumps(facts))

    def skip_unless_possible(self, python: str = sys.executable) -> None:
        """Skip the test, with what stands in the way, where this machine does not let us have such a room."""
        command = (*self.prefix(), python, "-c", "import tests.neuron.trainer")
        environ = {**os.environ, "PYTHONPATH": python_path()}
        done = subprocess.run(command, env=environ, cwd=PROJECT, capture_output=True, text=True, timeout=30)
        if done.returncode != 0:
            pytest.skip(f"no such room on this machine: {done.stderr.strip().splitlines()[-1:]}")


@lru_cache
def _reach_interpreter() -> tuple[Mount, ...]:
    """Interpreters and checkouts below a home that is closed to others: an empty home, with only these in it."""
    needed = {Path(path) for path in (sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix), PROJECT)}
    closed = {path: _closed_parent(path) for path in needed}
    homes = {home for home in closed.values() if home is not None}
    return (*map(hide, sorted(homes)), *(bind(path) for path in sorted(needed) if closed[path] is not None))


def _closed_parent(path: Path) -> Path | None:
    """The topmost folder above `path` that others may not pass."""
    return next((parent for parent in reversed(path.parents) if not parent.stat().st_mode & 0o001), None)
