"""Other Python processes of ours."""

from __future__ import annotations

import sys

# `-c`, like `-m`, has Python look for everything in the working directory first: an empty text in its path.
_PROGRAM = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    "import runpy; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def command(module: str) -> list[str]:
    """`python -m module`, whatever lies where somebody happens to be: a `secrets.py` there is not ours."""
    return [sys.executable, "-c", _PROGRAM, module]
