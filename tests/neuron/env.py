"""The environment of a child process that uses the stand-in."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEURON_DIR = Path(__file__).parent
STACK_DIR = NEURON_DIR / "stack"
BIN_DIR = STACK_DIR / "bin"
PROJECT_DIR = NEURON_DIR.parent.parent
_STACK_MODULES = ("libneuronxla", "neuronxcc", "standin_switches")
# Compiler flags that no other test process has: a lock stays while any process on the machine names its module.
FLAGS_OF_OUR_OWN = f"--of-test-process={os.getpid()}"
_STACK_USERS = ("tests.neuron.callers", "tests.neuron.parallel_compile")


def standin_env(cache_root: Path, *, flags: str = "", **switches: object) -> dict[str, str]:
    """This process's environment without its NEURON_* and NEFFD_* variables, made ready for the stand-in.

    `lock_probe_s=0.01` sets NEURON_STANDIN_LOCK_PROBE_S; True, False and None mean on and off.
    """
    environment = dict(os.environ)
    for name in [name for name in environment if name.startswith(("NEURON_", "NEFFD_"))]:
        del environment[name]
    python_path = [str(STACK_DIR), str(PROJECT_DIR), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in python_path if path)
    environment["PATH"] = os.pathsep.join([str(BIN_DIR), environment.get("PATH", os.defpath)])
    environment["NEURON_COMPILE_CACHE_URL"] = str(cache_root)
    environment["NEURON_CC_FLAGS"] = flags
    environment["NEURON_STANDIN_WORK_DIR"] = f"{cache_root}.work"
    environment.update(_switch_variables(switches))
    return environment


def _switch_variables(switches: dict[str, object]) -> dict[str, str]:
    chosen = {name: value for name, value in switches.items() if value not in (None, False)}
    return {f"NEURON_STANDIN_{name.upper()}": "1" if value is True else str(value) for name, value in chosen.items()}


@contextmanager
def importable_stack() -> Iterator[None]:
    """The stand-in in this process: importable inside, with all its modules forgotten afterwards."""
    sys.path.insert(0, str(STACK_DIR))
    try:
        yield
    finally:
        sys.path.remove(str(STACK_DIR))
        for name in list(sys.modules):
            if name.partition(".")[0] in _STACK_MODULES or name in _STACK_USERS:
                del sys.modules[name]
