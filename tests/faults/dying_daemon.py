"""Runs neffd with a death appointed: kill -9 when execution comes to a named point for the n-th time.

`python -m tests.faults.dying_daemon --config FILE`, the point in DIE_AT as `name` or `name:n`.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys

from neffd import points
from neffd.main import main


def arm(spec: str) -> None:
    """Make the process die at `spec`; raises ValueError for an unknown point."""
    wanted, _, count = spec.partition(":")
    if wanted not in points.NAMES:
        raise ValueError(f"no such point: {wanted}")
    left = itertools.count(int(count or 1) - 1, -1)

    def die(name: str) -> None:
        if name == wanted and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    points.hook = die


if __name__ == "__main__":
    arm(os.environ["DIE_AT"])
    sys.exit(main())
