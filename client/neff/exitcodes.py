"""Exit codes of the `neff` command."""

from __future__ import annotations

OK = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
UNREACHABLE = 4
PENDING = 5  # timed out, or something is still under way
INTERRUPTED = 130  # Ctrl-C, as shells count it
