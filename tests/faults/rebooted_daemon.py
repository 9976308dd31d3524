"""neffd after a start of the machine: BOOT_ID is what names this boot."""

from __future__ import annotations

import os
import sys

from neffd.store import index

index.boot_id = lambda: os.environ["BOOT_ID"]

if __name__ == "__main__":
    from neffd.main import main

    sys.exit(main())
