"""What is left of the Hub's request quotas: a plain object that reads the headers of every answer.

Quotas are per user, in fixed windows, one for each class of URLs: `api`, `resolvers` (files), `pages`. Who else shares
the user spends from the same ones, so only the last answer counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

API = "api"
FILES = "resolvers"
_KINDS = (API, FILES, "pages")
# A window is low when less than this part of it is left.
_RESERVE = 0.1

_LEFT = re.compile(r'"(?P<kind>[a-z]+)"\s*;\s*r=(?P<left>\d{1,9})\s*;\s*t=(?P<reset_s>\d{1,6})')
_POLICY = re.compile(r'"(?P<kind>[a-z]+)"\s*;\s*q=(?P<quota>\d{1,9})\s*;')


@dataclass(frozen=True)
class Quota:
    """One class of requests: how many may still be made, of how many (0 if not told), until the clock says so."""

    left: int
    of: int
    resets_at: float


class Quotas:
    """The quotas of one user as the last answers told them.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._told: dict[str, Quota] = {}

    def note(self, rate_limit: str, policy: str) -> None:
        """Read an answer's `RateLimit` and `RateLimit-Policy`; what cannot be read says nothing."""
        told = _LEFT.search(rate_limit)
        if told is None or told["kind"] not in _KINDS:
            return
        stated = _POLICY.search(policy)
        quota = int(stated["quota"]) if stated is not None and stated["kind"] == told["kind"] else 0
        self._told[told["kind"]] = Quota(int(told["left"]), quota, self._clock() + float(told["reset_s"]))

    def get(self, kind: str) -> Quota | None:
        """The quota of one class; None if it was never told, or its window is over."""
        quota = self._told.get(kind)
        return None if quota is None or self._clock() >= quota.resets_at else quota

    def is_low(self, kind: str, needed: int) -> bool:
        """Whether `needed` more requests, or a tenth of the window, are more than what is left of it."""
        quota = self.get(kind)
        return quota is not None and quota.left < max(quota.of * _RESERVE, needed)
