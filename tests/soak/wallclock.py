"""The wall clock of one host's daemon, which can be made to jump; needs a C compiler for what is preloaded there."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("wallclock.c")
_HOUR_S = 3600
_DAY_S = 24 * _HOUR_S
RIGHT_S = 0
JUMPS_S = (_HOUR_S, -_HOUR_S, 25 * _HOUR_S, -3 * _DAY_S, 365 * _DAY_S, -365 * _DAY_S, 3650 * _DAY_S, -3650 * _DAY_S, 0)


class WallClock:
    """How far the clock is off, in a file that the daemon's processes look at.

    Args:
        folder: for that file, and for what is compiled.

    Attributes:
        missing: why it cannot jump; empty where it can.
        environ: what the daemon's environment needs.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._file = folder / "off_s"
        self._file.write_bytes(struct.pack("=q", RIGHT_S))
        library = folder / "wallclock.so"
        self.missing = _build(library)
        self.environ = {} if self.missing else {"LD_PRELOAD": str(library), "SOAK_CLOCK": str(self._file)}

    def jump(self, off_s: int) -> None:
        """Set it off by so much from the right time."""
        with self._file.open("r+b", buffering=0) as file:
            file.write(struct.pack("=q", off_s))


def _build(library: Path) -> str:
    """Compile the library; returns why that is not possible, or an empty text."""
    compiler = shutil.which("cc")
    if compiler is None:
        return "no C compiler"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""
