"""Runs neffd so that a copy to or from a directory remote stops in the middle.

`python -m tests.integration.pausing_daemon --config FILE`. After the NEFF is copied, the thread creates the file that
PAUSE_FILE names and waits until somebody removes it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from neffd.main import main
from neffd.store import fsops


def arm(file: Path) -> None:
    """Make whoever has copied a NEFF wait while `file` is there."""
    copy = fsops.copy_hashed

    def copy_and_pause(source: Path, target: Path, progress: Callable[[int], None] = lambda _: None) -> tuple[int, str]:
        copied = copy(source, target, progress)
        if source.name.startswith("model.neff"):
            file.touch()
            while file.exists():
                time.sleep(0.01)
        return copied

    fsops.copy_hashed = copy_and_pause


if __name__ == "__main__":
    arm(Path(os.environ["PAUSE_FILE"]))
    sys.exit(main())
