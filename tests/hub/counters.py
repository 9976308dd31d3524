"""What the server was asked and what it answered, by route template."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import Any

_RECENT = 1000


class Counters:
    """Requests are counted when they arrive, errors and bytes when they are answered."""

    def __init__(self) -> None:
        self._arrival = asyncio.Condition()
        self.reset()

    def reset(self) -> None:
        self.requests: Counter[str] = Counter()
        self.errors: Counter[tuple[str, int]] = Counter()
        self.unrouted: Counter[str] = Counter()
        self.recent: deque[str] = deque(maxlen=_RECENT)
        self.bytes_in = 0
        self.bytes_out = 0

    async def arrived(self, route: str, request_line: str) -> None:
        async with self._arrival:
            self.requests[route] += 1
            self.recent.append(request_line)
            self._arrival.notify_all()

    def missed(self, request_line: str) -> None:
        """Count a request that no route matched."""
        self.unrouted[request_line] += 1

    def answered(self, route: str, status: int, bytes_in: int, bytes_out: int) -> None:
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        if status >= 400:
            self.errors[route, status] += 1

    async def wait(self, route: str, count: int) -> None:
        """Return once the route has been asked `count` times since the last reset."""
        async with self._arrival:
            await self._arrival.wait_for(lambda: self.requests[route] >= count)

    def snapshot(self) -> dict[str, Any]:
        """Return all counts as JSON values; errors as route -> status -> count."""
        errors: dict[str, dict[str, int]] = {}
        for (route, status), count in self.errors.items():
            errors.setdefault(route, {})[str(status)] = count
        return {
            "requests": dict(self.requests),
            "errors": errors,
            "unrouted": dict(self.unrouted),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
        }
