"""The daemon that works like the others and is never hit: what it uses after a minute, all the time, and at the end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.harness.processes import worker_of
from tests.harness.waiting import eventually
from tests.soak.host import Host
from tests.soak.usage import Usage, at_rest, sample

_EVERY_S = 15.0
_FIRST_AT_S = 60.0
# Idle workers and connections are let go within two minutes.
_CALM_WITHIN_S = 150.0
# A shorter run is over before the first look is.
_SHORTEST_S = 300.0
_REST_LOOKS, _REST_LOOK_S = 15, 1.0


class Witness:
    """Takes samples of one host's daemon.

    Args:
        orders: the folder of its trainers' orders: they rest while the daemon is looked at.

    Attributes:
        samples: all the time, at work.
        first: at rest, after about a minute; None in a run that is too short.
        last: at rest, at the end.
    """

    def __init__(self, host: Host, orders: Path, began_s: float, length_s: float) -> None:
        self._host, self._orders, self._began_s = host, orders, began_s
        self._is_judged = length_s >= _SHORTEST_S
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="witness", daemon=True)
        self.samples: list[Usage] = []
        self.first: Usage | None = None
        self.last: Usage | None = None

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """The last look, when nothing is asked any more."""
        self._over.set()
        self._thread.join()
        self._look()
        if self._is_judged:
            self.last = self._look_at_rest()

    def _watch(self) -> None:
        next_at_s = _EVERY_S
        while not self._over.wait(max(0.0, self._began_s + next_at_s - time.monotonic())):
            next_at_s += _EVERY_S
            if self._is_judged and self.first is None and next_at_s > _FIRST_AT_S:
                with self._rest():
                    self.first = self._look_at_rest()
            else:
                self._look()

    @contextlib.contextmanager
    def _rest(self) -> Iterator[None]:
        order = self._orders / "rest"
        order.touch()
        try:
            yield
        finally:
            order.unlink()

    def _look_at_rest(self) -> Usage:
        """Like with like: nothing under way, no worker that waits for more."""
        self._host.question("flush", timeout_s=5)
        with contextlib.suppress(AssertionError):  # it is looked at all the same, and the judge sees what is there
            eventually(self._is_calm, "nothing under way", _CALM_WITHIN_S)
        seen: list[Usage] = []
        for _ in range(_REST_LOOKS):
            time.sleep(_REST_LOOK_S)
            seen.append(self._sample())
        return at_rest(seen)

    def _is_calm(self) -> bool:
        if worker_of(self._host.pid) is not None:
            return False
        status = self._host.status()
        return not status["fetching"] and not status["compiling"]

    def _look(self) -> None:
        with contextlib.suppress(OSError, EOFError, ValueError):
            self.samples.append(self._sample())

    def _sample(self) -> Usage:
        tasks = int(self._host.counter("neffd_tasks"))
        return sample(self._host.pid, tasks, time.monotonic() - self._began_s)
