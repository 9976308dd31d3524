"""A small disk of its own for one host, which can be filled and freed."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

_SIZE = "32m"
_BLOCK_BYTES = 1 << 16
_BALLAST = "ballast"


class SmallDisk:
    """A tmpfs at `folder`; where mounting is not permitted, the folder itself.

    Attributes:
        missing: why there is no such disk; empty where there is one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        try:
            command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "none", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True)
            self.missing = done.stderr.strip() if done.returncode else ""
        except OSError as error:
            self.missing = str(error)

    def fill(self) -> None:
        """Leave no room at all."""
        with contextlib.suppress(OSError), (self.folder / _BALLAST).open("ab", buffering=0) as ballast:
            while True:
                ballast.write(bytes(_BLOCK_BYTES))

    def free(self) -> None:
        """Give the room back."""
        (self.folder / _BALLAST).unlink(missing_ok=True)

    def close(self) -> None:
        """Take the disk away, with all that is on it."""
        if not self.missing:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)
