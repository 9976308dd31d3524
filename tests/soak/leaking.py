"""`python -m neffd` with a leak in it, of SOAK_LEAK_MB megabytes an hour: a soak whose witness runs this must fail."""

from __future__ import annotations

import os
import sys
import threading
import time

from neffd.main import main

_EVERY_S = 2.0
_KIB = 1024


def _leak(bytes_per_s: float) -> None:
    """A little now and then, as a list that nobody empties would grow."""
    kept: list[bytes] = []
    while True:
        time.sleep(_EVERY_S)
        left = round(bytes_per_s * _EVERY_S)
        while left > 0:
            kept.append(os.urandom(min(left, _KIB)))
            left -= _KIB


if __name__ == "__main__":
    lost_bytes_per_s = float(os.environ["SOAK_LEAK_MB"]) * 1e6 / 3600
    threading.Thread(target=_leak, args=(lost_bytes_per_s,), name="leak", daemon=True).start()
    sys.exit(main())
