"""Whether a remote may be asked now: a circuit breaker for each of its sides. Plain objects with an injected clock.

A remote is read (is it there, which version, the bytes) and written (may we, take this) under different quotas and
rights, so that each side has a breaker of its own: 429 for reads does not stop an upload, a full repository stops no
download. What is said of the host itself (no such name, nobody listens, TLS, no such directory) counts for both sides,
and so does the news that it is back. Only RemoteUnavailable opens a breaker: a copy that is refused, a missing key or
an error of our own says nothing about the remote.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

from neffd.remotes.base import BEING_REWRITTEN, REVISION_GONE, STILL_LISTING, RemoteUnavailable
from neffd.retry import Backoff

FIRST_S = 1.0
LONGEST_S = 60.0
# So many transfers may fail in a row before it is the remote's fault rather than theirs.
SPARE_TRANSFERS = 2
# How soon to come back where somebody else is trying just now.
_SOON_S = 1.0
# No answer in time means little while bytes of the same remote arrived so lately: the line is busy.
_BUSY_LINE_S = 5.0
_OF_THE_HOST = frozenset({"unreachable", "name-not-found", "tls-failed", "no-directory", "stale-mount"})
# One entry's trouble, a large remote that is being read, or the end of an asker.
_NO_TROUBLE = frozenset({BEING_REWRITTEN, STILL_LISTING, REVISION_GONE, "entry-gone", "cancelled"})


class State(str, Enum):
    """What a breaker lets through: everything, nothing, or one probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"

    @property
    def level(self) -> int:
        """As a number, for a metric."""
        return {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}[self]


@dataclass(eq=False)
class _Ticket:
    """One call under way: when it began, and how often the breaker had opened before."""

    openings: int
    began_at: float


class BreakerOpen(RemoteUnavailable):
    """The remote was not asked, since it is being given a rest; `reason` is what it failed with."""


class Breaker:
    """One side of one remote.

    It opens at the first failed question, and stays open for a pause that grows while the remote keeps failing, and is
    never shorter than the remote asked for. Then it is half open: one question goes through, all else is refused at
    once; never a transfer, which might keep everybody waiting for minutes. Success closes it. A remote that fails again
    before it has been well for as long as its last pause was goes on where it left off.

    Args:
        clock: monotonic seconds.
        jitter: a number from 0 to 1; injected by tests.
        spare_transfers: how many transfers may fail in a row without opening it.
        excused: reasons that are not the remote's trouble.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        jitter: Callable[[], float] = random.random,
        *,
        spare_transfers: int = 0,
        excused: Collection[str] = (),
    ) -> None:
        self._clock = clock
        self._pause = Backoff(FIRST_S, LONGEST_S, clock, jitter)
        self._spare_transfers = spare_transfers
        self._excused = excused
        self._failed_transfers = 0
        self._openings = 0
        self._last_pause_s = 0.0
        self._closed_at = clock()
        self._moved_at: float | None = None
        self._is_hearsay = False
        self._probe: object | None = None
        self._peer: Breaker | None = None
        self.reason: str | None = None

    @property
    def state(self) -> State:
        """What would become of a call now; half open also while the one probe is under way."""
        if self.reason is None:
            return State.CLOSED
        return State.OPEN if self._pause.wait_s > 0 and self._probe is None else State.HALF_OPEN

    @property
    def retry_s(self) -> float:
        """Seconds until a call is worth making; 0 if it is now."""
        if self.reason is None:
            return 0.0
        return max(self._pause.wait_s, _SOON_S if self._probe is not None else 0.0)

    def status(self) -> dict[str, Any]:
        """For the status document."""
        return {"state": self.state.value, "reason": self.reason, "retry_s": round(self.retry_s, 1)}

    def moved(self) -> None:
        """Bytes arrived; from any thread."""
        self._moved_at = self._clock()

    @contextmanager
    def attempt(self, *, is_transfer: bool = False) -> Iterator[None]:
        """Around one call of the remote.

        A time-out inside becomes RemoteUnavailable. Any other error, and being cancelled, counts as no call at all.

        Args:
            is_transfer: the call moves content, so that its failure may be of that content or of another host.

        Raises BreakerOpen instead of entering, and what is raised inside.
        """
        ticket = self._admit(is_transfer)
        try:
            yield
        except asyncio.TimeoutError:
            self._failed(ticket, RemoteUnavailable("timeout"), is_transfer)
            raise RemoteUnavailable("timeout") from None
        except RemoteUnavailable as error:
            self._failed(ticket, error, is_transfer)
            raise
        else:
            self._succeeded(ticket, is_transfer)
        finally:
            if self._probe is ticket:
                self._probe = None

    def _admit(self, is_transfer: bool) -> _Ticket:
        if self.reason is not None and (is_transfer or self.retry_s > 0):
            raise BreakerOpen(self.reason, "not asked, it is given a rest", max(self.retry_s, _SOON_S))
        ticket = _Ticket(self._openings, self._clock())
        if self.reason is not None:
            self._probe = ticket
        return ticket

    def _succeeded(self, ticket: _Ticket, is_transfer: bool) -> None:
        if ticket.openings != self._openings:
            return  # it began before others found the remote away; the probe will tell
        if is_transfer:
            self._failed_transfers = 0
        if self.reason is None:
            return
        self._close()
        if not is_transfer and self._peer is not None:
            self._peer._host_is_back()

    def _failed(self, ticket: _Ticket, error: RemoteUnavailable, is_transfer: bool) -> None:
        if isinstance(error, BreakerOpen) or error.reason in self._excused:
            return
        if ticket.openings != self._openings and self._is_no_news(error):
            return
        if is_transfer:
            self._failed_transfers += 1
        is_spared = is_transfer and self._failed_transfers <= self._spare_transfers
        if error.retry_after_s is None and (is_spared or self._is_busy_line(error)):
            return
        self._open(error, ticket.began_at)
        if not is_transfer and error.reason in _OF_THE_HOST and self._peer is not None:
            self._peer._host_is_away(error)

    def _open(self, error: RemoteUnavailable, began_at: float, *, is_hearsay: bool = False) -> None:
        if self.reason is None and began_at - self._closed_at >= self._last_pause_s:
            self._pause.succeeded()
        self.reason = error.reason
        self._is_hearsay = is_hearsay
        self._openings += 1
        self._pause.failed(error.retry_after_s)
        self._last_pause_s = min(self._pause.wait_s, LONGEST_S)

    def _close(self) -> None:
        self.reason, self._closed_at, self._is_hearsay = None, self._clock(), False

    def _is_no_news(self, error: RemoteUnavailable) -> bool:
        """Of a call that was under way when it opened: only how long the remote wants to be left alone counts."""
        if error.retry_after_s is None:
            return True
        if self.reason is not None:
            self._pause.at_least(error.retry_after_s)
        return self.reason is not None

    def _is_busy_line(self, error: RemoteUnavailable) -> bool:
        if error.reason != "timeout" or self._moved_at is None:
            return False
        return self.reason is None and self._clock() - self._moved_at < _BUSY_LINE_S

    def _host_is_away(self, error: RemoteUnavailable) -> None:
        if self.reason is None:
            self._open(error, self._clock(), is_hearsay=True)

    def _host_is_back(self) -> None:
        if self._is_hearsay:
            self._close()
        elif self.reason in _OF_THE_HOST:
            self._pause.succeeded()  # its own probe is due now


class Breakers:
    """Both sides of one remote."""

    def __init__(self, clock: Callable[[], float], jitter: Callable[[], float] = random.random) -> None:
        self.read = Breaker(clock, jitter, spare_transfers=SPARE_TRANSFERS, excused=_NO_TROUBLE)
        self.write = Breaker(clock, jitter)
        self.read._peer, self.write._peer = self.write, self.read
