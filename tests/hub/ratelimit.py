"""Request and commit quotas in fixed windows, and the headers that tell of them.

Format: `RateLimit: "<kind>";r=<left>;t=<seconds to the next window>` and
`RateLimit-Policy: "fixed window";"<kind>";q=<quota>;w=<window seconds>`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.hub.errors import HubError
from tests.hub.settings import QuotaHeaders, Settings

Clock = Callable[[], float]


@dataclass
class _Window:
    start_s: float
    used: int = 0


class FixedWindows:
    """Counts uses per key; a window starts with a key's first use and ends a fixed time later."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[tuple[str, ...], _Window] = {}

    def _window(self, key: tuple[str, ...], window_s: float) -> _Window:
        window = self._windows.get(key)
        if window is None or self._clock() - window.start_s >= window_s:
            window = self._windows[key] = _Window(self._clock())
        return window

    def take(self, key: tuple[str, ...], quota: int, window_s: float) -> bool:
        """Use one of the quota; False if nothing was left."""
        window = self._window(key, window_s)
        if window.used >= quota:
            return False
        window.used += 1
        return True

    def left(self, key: tuple[str, ...], quota: int, window_s: float) -> int:
        return max(0, quota - self._window(key, window_s).used)

    def resets_in_s(self, key: tuple[str, ...], window_s: float) -> int:
        """Whole seconds until the window ends, rounded up."""
        window = self._window(key, window_s)
        return max(0, math.ceil(window.start_s + window_s - self._clock()))

    def reset(self) -> None:
        self._windows.clear()


def kind_of(path: str) -> str | None:
    """Return which quota a request on the hub port counts against; None for LFS calls, which are free."""
    if ".git/info/lfs/" in path:
        return None
    return "resolvers" if "/resolve/" in path else "api"


class RateLimits:
    """The request quotas per token, and the commit quota per user."""

    def __init__(self, settings: Settings, clock: Clock = time.monotonic) -> None:
        self._settings = settings
        self._windows = FixedWindows(clock)
        self._commits = FixedWindows(clock)

    def take_request(self, token: str | None, path: str) -> dict[str, str]:
        """Count one request and return the quota headers of its answer.

        Raises:
            HubError: 429 when the window's quota is used up.
        """
        kind = kind_of(path)
        settings = self._settings
        quota = settings.resolver_quota if kind == "resolvers" else settings.api_quota
        if kind is None or quota is None:
            return {}
        key, window_s = (kind, token or ""), settings.quota_window_s
        allowed = self._windows.take(key, quota, window_s)
        resets_in_s = self._windows.resets_in_s(key, window_s)
        headers = _headers(kind, quota, self._windows.left(key, quota, window_s), resets_in_s, window_s)
        if allowed:
            return headers
        raise HubError(
            429,
            f"You have reached your '{kind}' rate limit.",
            headers=_refusal_headers(headers, resets_in_s, settings.quota_headers),
        )

    def check_commit(self, user: str) -> None:
        """Refuse a commit when the user's quota is used up.

        Raises:
            HubError: 429, while the request quota may well have something left.
        """
        quota, window_s = self._settings.commit_quota, self._settings.commit_window_s
        if quota is not None and not self._commits.left((user,), quota, window_s):
            raise HubError(429, f"You have exceeded the rate limit for repository commits ({quota} per hour).")

    def count_commit(self, user: str) -> None:
        """Count one landed commit."""
        quota = self._settings.commit_quota
        if quota is not None:
            self._commits.take((user,), quota, self._settings.commit_window_s)

    def reset(self) -> None:
        """Start every window anew."""
        self._windows.reset()
        self._commits.reset()


def _headers(kind: str, quota: int, left: int, resets_in_s: int, window_s: float) -> dict[str, str]:
    return {
        "RateLimit": f'"{kind}";r={left};t={resets_in_s}',
        "RateLimit-Policy": f'"fixed window";"{kind}";q={quota};w={window_s:g}',
    }


def _refusal_headers(headers: dict[str, str], resets_in_s: int, form: QuotaHeaders) -> dict[str, str]:
    retry_after = {"Retry-After": str(resets_in_s)}
    if form == "retry-after":
        return retry_after
    return headers if form == "ratelimit" else {**headers, **retry_after}
