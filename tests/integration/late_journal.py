"""Runs neffd so that what an earlier life left is read late: not while the file that PAUSE_FILE names is there.

`python -m tests.integration.late_journal --config FILE`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Collection
from pathlib import Path

from neffd.main import main
from neffd.publish.journal import Journal


def arm(file: Path) -> None:
    """Make whoever reads the journal for a remote wait while `file` is there."""
    unpark = Journal.unpark

    async def wait_and_unpark(self: Journal, remote: str, reasons: Collection[str]) -> None:
        while file.exists():  # noqa: ASYNC110, another process removes it
            await asyncio.sleep(0.01)
        await unpark(self, remote, reasons)

    Journal.unpark = wait_and_unpark  # type: ignore[method-assign]


if __name__ == "__main__":
    arm(Path(os.environ["PAUSE_FILE"]))
    sys.exit(main())
