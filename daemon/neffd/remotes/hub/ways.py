"""Which way a file comes down: plain GETs, or hf_xet in the worker process. Decisions only, no I/O."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from neffd.remotes.base import RemoteFile
from neffd.remotes.hub.quotas import FILES, Quotas

# After a failure of the chunk store, plain GETs alone for so long.
_AVOID_S = 60.0


class Way(Enum):
    """A way down."""

    # One request of the resolver quota each. hf_xet's batch took 1.0 to 1.7 times as long (median 1.2) for files of
    # 20 KB to 17 MB at 0, 40 and 150 ms a request; for one of 200 MB, 0.8 to 1.2 times where there is any latency.
    GET = "get"
    # No such request, but a process of 100 to 200 MB: used when requests run low.
    XET = "xet"


class Ways:
    """Chooses by quota: see `tests/bench/ways_down.py` for what each way costs in time.

    Args:
        quotas: what the Hub last said.
        clock: monotonic seconds.
        has_xet: False where hf_xet must not be used.
    """

    def __init__(self, quotas: Quotas, clock: Callable[[], float], *, has_xet: bool = True) -> None:
        self._quotas = quotas
        self._clock = clock
        self._has_xet = has_xet
        self._avoid_until = clock()

    def is_scarce(self, waiting: int) -> bool:
        """Whether requests for so many files are more than what should be spent now."""
        return self._quotas.is_low(FILES, waiting)

    def choose(self, file: RemoteFile, waiting: int) -> Way:
        """The way of `file`, when so many files are still to be asked for, this one included."""
        can_xet = self._has_xet and file.xet_hash is not None and self._clock() >= self._avoid_until
        return Way.XET if can_xet and self.is_scarce(waiting) else Way.GET

    def failed(self) -> None:
        """The chunk store did not bring a file."""
        self._avoid_until = self._clock() + _AVOID_S
