"""Small C libraries of these tests, compiled when one is asked for and put before the C library of a process."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def compiler() -> str | None:
    """The C compiler, if there is one."""
    return shutil.which("gcc") or shutil.which("cc")


def build(name: str, folder: Path) -> Path:
    """Compile `name`.c from beside this file into `folder`; returns the library for LD_PRELOAD."""
    library = folder / f"{name}.so"
    source = Path(__file__).with_name(f"{name}.c")
    command = [compiler() or "cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return library
