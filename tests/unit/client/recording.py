"""Time that a test controls, and a record of every wait."""

from __future__ import annotations

import socket

from neff.waits import Waits

_HANGS_S = 10.0


class PatientWaits(Waits):
    """For something that really comes: a limit only ends a hang.

    A scripted daemon is a thread of this process; how soon it gets its turn is no promise of anybody's.
    """

    def wait_ready(self, sock: socket.socket | None, timeout_s: float, *, to_write: bool = False) -> bool:
        limit_s = timeout_s if sock is None else max(timeout_s, _HANGS_S)
        return super().wait_ready(sock, limit_s, to_write=to_write)


class RecordedWaits(Waits):
    """Notes each wait's limit. The first `real` waits are for something that really comes and take `step_s` of the
    test's time each; every later one times out at once, its whole limit having passed."""

    def __init__(self, real: int = 0, step_s: float = 0.0) -> None:
        self.limits_s: list[float] = []
        self.clock_s = 1000.0
        self._real = real
        self._step_s = step_s

    def now_s(self) -> float:
        return self.clock_s

    def wait_ready(self, sock: socket.socket | None, timeout_s: float, *, to_write: bool = False) -> bool:
        self.limits_s.append(round(timeout_s, 3))
        if self._real > 0:
            self._real -= 1
            self.clock_s += self._step_s
            return super().wait_ready(sock, 10, to_write=to_write)
        self.clock_s += timeout_s
        return False
