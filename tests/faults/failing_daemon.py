"""neffd, but an I/O call fails at a point of `neffd.points`, as if the disk had: FAIL_AT=<point>:<errno name>,…

The first time that execution comes there with the first error, the second time with the second, and then no more.
"""

from __future__ import annotations

import errno
import os
import sys

from neffd import points
from neffd.main import main


def arm(spec: str) -> None:
    """Make the point fail as `spec` says; raises ValueError for an unknown point."""
    wanted, _, names = spec.partition(":")
    if wanted not in points.NAMES:
        raise ValueError(f"no such point: {wanted}")
    codes = iter([getattr(errno, name) for name in names.split(",")])

    def fail(name: str) -> None:
        if name == wanted and (code := next(codes, None)) is not None:
            raise OSError(code, os.strerror(code), name)

    points.hook = fail


if __name__ == "__main__":
    arm(os.environ["FAIL_AT"])
    sys.exit(main())
