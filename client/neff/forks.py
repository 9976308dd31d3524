"""What a forked child must do to objects that it inherits: never use the parent's connections, never wait on a lock
that a thread held which does not exist in the child."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class ForkAware(Protocol):
    """An object with state that a child must not share with its parent."""

    def after_fork_in_child(self) -> None:
        """Called in the child, with one thread running, before anything else of ours."""


_MEMBERS: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def watch(member: ForkAware) -> None:
    """Have `member` told in every forked child, for as long as it lives."""
    _MEMBERS.add(member)


def _after_fork_in_child() -> None:
    for member in list(_MEMBERS):
        member.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
