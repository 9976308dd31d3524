"""What can go wrong between a client and the daemon.

    DaemonError
    ├── UnreachableError   nobody there, no permission, no greeting in time
    ├── SilentError        greeted, then no answer within the limit
    ├── LostError          the connection ended, or what came is not the protocol
    └── RefusedError       the daemon answered with an error

Each has a short `reason` code; the text says what and where. Inside a trainer none of them leaves the package.
HandlerError is none of these: it carries what is not ours to catch.
"""

from __future__ import annotations


class DaemonError(Exception):
    """The daemon did not answer the question."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class HandlerError(BaseException):
    """A signal handler of this process raised `error` while we waited: passed by all that catches failures of ours.

    A time limit by SIGALRM is often an OSError, which would look like one of the connection's.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class UnreachableError(DaemonError):
    """No greeting came from any of the places that were tried."""


class SilentError(DaemonError):
    """The daemon greeted and then did not answer in time."""


class LostError(DaemonError):
    """The connection ended or cannot be used any more."""


class RefusedError(DaemonError):
    """The daemon answered with an error; `reason` is its code."""
