"""The line of whoever starts a run to the daemon, open for as long as the run goes on."""

from __future__ import annotations

import os
from collections.abc import Mapping

from neff import forks, greeting
from neff.cachedir import cache_root
from neff.connection import Connection, connect, socket_candidates
from neff.errors import DaemonError
from neff.patience import CONNECT_S, SilencePatience
from neff.protocol import Message
from neff.runs.marker import VARIABLE, Run, bounded, to_text
from neff.waits import Waits

PREFETCH = "prefetch"
RUN_ENDED = "run-ended"
# A daemon that knows runs.
KNOWS_RUNS = "plan"
# How long the end of a run is waited for, where the daemon is slow to sum it up.
_SUMMARY_S = 1.0


class Launcher:
    """Tells the daemon of a run's beginning and end. Nothing that goes wrong with the daemon leaves it.

    Args:
        run: the run.
        socket_path: of the daemon; None: wherever it may be.
        environ: that the run's processes start with.
    """

    def __init__(
        self,
        run: Run,
        socket_path: str | None = None,
        environ: Mapping[str, str] | None = None,
        waits: Waits | None = None,
    ) -> None:
        self._run = bounded(run)
        self._environ = {**(os.environ if environ is None else environ), VARIABLE: to_text(run)}
        self._socket_path = socket_path
        self._waits = waits or Waits()
        self._connection: Connection | None = None
        forks.watch(self)

    def after_fork_in_child(self) -> None:
        """The child neither speaks for the run nor keeps its line open."""
        self.close()

    def begin(self, *, prefetch: bool) -> None:
        """Greet, and have the run's modules brought; waits for the greeting alone, and shortly."""
        try:
            self._connection = self._connect()
            is_anywhere = cache_root(self._environ) is not None  # else nothing would be found where it is brought
            if prefetch and is_anywhere and KNOWS_RUNS in self._connection.capabilities:
                self._connection.tell(PREFETCH, {"run": self._run.message(), "wait": False})
        except DaemonError:
            self.close()

    def end(self) -> Message | None:
        """Say that the run has ended; the daemon's summary, if it comes soon."""
        connection: Connection | None = None
        try:
            # Behind those on which the run's processes have just left what they found.
            connection = self._connect()
            return self._summary(connection)
        except DaemonError:
            return None
        finally:
            if connection is not None:
                connection.close()
            self.close()

    def close(self) -> None:
        """Close the line; a no-op if it is closed."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _summary(self, connection: Connection) -> Message | None:
        if RUN_ENDED not in connection.capabilities:
            return None
        patience = SilencePatience(self._waits.now_s(), _SUMMARY_S, _SUMMARY_S)
        for answer in connection.answers(RUN_ENDED, {}, patience):
            summary = answer.get("run")
            if isinstance(summary, dict):
                return summary
        return None

    def _connect(self) -> Connection:
        root = cache_root(self._environ)
        hello = greeting.of_trainer(root, greeting.identity_of(root), self._environ) if root else greeting.of_command()
        return connect(socket_candidates(self._socket_path, self._environ), hello, self._waits, CONNECT_S)
