"""Named places in the code at which a fault test may end the process or fail an I/O call.

Calling `reached` does nothing unless a test harness has set `hook`.
"""

from __future__ import annotations

from collections.abc import Callable

hook: Callable[[str], None] | None = None

NAMES = (
    "entry-staged",  # all files of a fetched entry are in the staging folder
    "index-written",  # the index knows where the entry comes from
    "entry-renamed",  # the whole folder was moved in, or one file of it
    "before-ready-mark",
    "after-ready-mark",
    "entry-pinned",  # an own entry is linked into the staging folder
    "journal-inserted",
    "before-confirmation",  # the remote has it, we do not know yet
    "after-confirmation",
    "journal-deleted",
    "eviction-noted",  # the database knows that an entry is going to be removed
    "eviction-unmarked",  # its ready mark is gone, its other files are there
    "eviction-emptied",  # its files are gone, its folder is there
    "migrating",  # in the middle of a change of the database's schema
)


def reached(name: str) -> None:
    """Tell a test harness that execution came to the point `name`."""
    if hook is not None:
        hook(name)
