"""neffd, recorded: every named point that it comes to is a mark among the events of `power_trace`."""

from __future__ import annotations

import sys

from neffd import points
from neffd.main import main
from tests.faults import power_trace

if __name__ == "__main__":
    points.hook = power_trace.mark
    sys.exit(main())
