"""Exit codes of the `neff` command."""

from __future__ import annotations

OK = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
UNREACHABLE = 4
PENDING = 5  # timed out, or something is still under way
REFUSED = 6  # not logged in, no repo set, no right to do it, or not on this host
INCOMPLETE = 7  # the command that was run succeeded, but a remote lacks what it used
# `neff plan` answers with its code, 0 for warm; what keeps it from an answer has none of these.
FETCHABLE = 2
WILL_COMPILE = 3
UNKNOWN = 8  # no run like it was recorded
PLAN_USAGE = 64  # wrong use of `neff plan`, by the number that sysexits.h has for it
# `neff run` otherwise gives the command's own; these two as shells do.
CANNOT_EXECUTE = 126
COMMAND_NOT_FOUND = 127
INTERRUPTED = 130  # Ctrl-C, as shells count it
