"""What clients can ask for, one module an operation; `serve/session.py` says what an operation is given."""

from __future__ import annotations

from typing import Protocol

from neffd.serve.operations.flush import Flush, Flusher
from neffd.serve.operations.prefetch import NameFinder, Prefetch
from neffd.serve.operations.resolve import resolve
from neffd.serve.operations.status import Status, StatusSource
from neffd.serve.session import Operation


class Daemon(NameFinder, StatusSource, Flusher, Protocol):
    """What the standard operations need of the service."""


def standard(daemon: Daemon) -> dict[str, Operation]:
    """The operations that every daemon has, in the order in which the greeting names them."""
    return {
        "resolve": resolve,
        "prefetch": Prefetch(daemon),
        "status": Status(daemon),
        "flush": Flush(daemon),
    }
