"""One remote's picture: which keys it holds, how fresh that is, and whether the remote answers at all.

A positive answer comes from memory. A negative one comes from memory while the remote's version of the namespace was
seen unchanged a moment ago; else one check, shared by all askers, brings the picture up to date.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from neffd.metrics import Metrics
from neffd.remotes.base import Remote, RemoteUnavailable
from neffd.retry import Backoff
from neffd.tasks import Tasks

log = logging.getLogger(__name__)

# A question's first answer is due within 3 s, so a check must end before that.
CHECK_LIMIT_S = 2.5
_LONGEST_PAUSE_S = 60.0


@dataclass
class _Namespace:
    """What we know of one namespace; `checked_at` is None before the first answer."""

    keys: frozenset[str] = frozenset()
    version: Hashable = None
    checked_at: float | None = None


class Catalog:
    """What `remote` holds.

    Args:
        poll_s: how old a picture may get while nobody asks.
        recheck_s: how old a picture may be for a negative answer.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        remote: Remote,
        tasks: Tasks,
        metrics: Metrics,
        *,
        poll_s: float,
        clock: Callable[[], float],
        recheck_s: float | None = None,
    ) -> None:
        self._remote = remote
        self._tasks = tasks
        self._metrics = metrics
        self._clock = clock
        self.poll_s = poll_s
        self._recheck_s = min(poll_s, 5.0) if recheck_s is None else recheck_s
        self._namespaces: dict[str, _Namespace] = {}
        self._new = asyncio.Event()
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._backoff = Backoff(1.0, _LONGEST_PAUSE_S, clock)
        self.trouble: str | None = None

    def knows(self, namespace: str, key: str) -> bool:
        """Whether the key was there when we last looked."""
        known = self._namespaces.get(namespace)
        return known is not None and key in known.keys

    def knows_absent(self, namespace: str, key: str) -> bool:
        """Whether a negative answer can be given from memory."""
        return self._is_fresh(namespace) and not self.knows(namespace, key)

    def namespaces_with(self, key: str) -> list[str]:
        """Every namespace known to hold `key`."""
        return sorted(name for name, known in self._namespaces.items() if key in known.keys)

    async def holds(self, namespace: str, key: str) -> bool:
        """Whether the remote holds a ready entry; raises RemoteUnavailable if nobody can say."""
        if self.knows(namespace, key):
            return True
        if not self._is_fresh(namespace):
            await self.check(namespace)
        return self.knows(namespace, key)

    async def check(self, namespace: str) -> None:
        """Bring one namespace up to date, together with everybody who asks meanwhile; raises RemoteUnavailable."""
        if self._backoff.wait_s > 0:
            raise RemoteUnavailable(self.trouble or "unreachable", retry_after_s=self._backoff.wait_s)
        running = self._checks.get(namespace)
        if running is None:
            running = self._tasks.start(self._check(namespace), name=f"catalog-{self._remote.name}-{namespace}")
            self._checks[namespace] = running
            running.add_done_callback(lambda _: self._checks.pop(namespace, None))
        await asyncio.shield(running)
        if self.trouble is not None:
            raise RemoteUnavailable(self.trouble, retry_after_s=self._backoff.wait_s)

    def forget(self, namespace: str, key: str) -> None:
        """The remote turned out not to hold what we thought."""
        known = self._namespaces.get(namespace)
        if known is not None:
            self._namespaces[namespace] = _Namespace(known.keys - {key}, None, None)

    async def discover(self) -> None:
        """Look at every namespace of the remote; used when a key is asked for without one. Raises RemoteUnavailable."""
        try:
            found = await asyncio.wait_for(self._remote.namespaces(), CHECK_LIMIT_S)
        except (RemoteUnavailable, asyncio.TimeoutError) as error:
            raise self._note(error) from error
        await asyncio.gather(*(self.check(namespace) for namespace in found))

    def use(self, namespace: str) -> None:
        """Keep a picture of `namespace` from now on: some host's compiler has this version."""
        if namespace not in self._namespaces:
            self._namespaces[namespace] = _Namespace()
            self._new.set()

    async def keep_fresh(self) -> None:
        """Look at the namespaces in use, again every `poll_s`, for ever."""
        while True:
            pause_s = max(self.poll_s, self._backoff.wait_s)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._new.wait(), pause_s)
            self._new.clear()
            for namespace in list(self._namespaces):
                with contextlib.suppress(RemoteUnavailable):
                    await self.check(namespace)

    def status(self) -> dict[str, object]:
        """Facts for the status page."""
        checked = [known.checked_at for known in self._namespaces.values() if known.checked_at is not None]
        return {
            "namespaces": len(checked),
            "keys": sum(len(known.keys) for known in self._namespaces.values()),
            "age_s": round(self._clock() - min(checked), 3) if checked else None,
        }

    def _is_fresh(self, namespace: str) -> bool:
        known = self._namespaces.get(namespace)
        return known is not None and known.checked_at is not None and self._clock() - known.checked_at < self._recheck_s

    async def _check(self, namespace: str) -> None:
        known = self._namespaces.get(namespace, _Namespace())
        began = self._clock()
        try:
            seen = await asyncio.wait_for(self._look(namespace, known), CHECK_LIMIT_S)
        except (RemoteUnavailable, asyncio.TimeoutError) as error:
            self._note(error)
            return
        # The picture is as old as the moment before we asked.
        seen.checked_at = began
        self._namespaces[namespace] = seen
        if self.trouble is not None:
            log.info("remote %s answers again", self._remote.name)
        self.trouble = None
        self._backoff.succeeded()

    async def _look(self, namespace: str, known: _Namespace) -> _Namespace:
        version = await self._remote.version(namespace)
        if known.checked_at is not None and version == known.version:
            return _Namespace(known.keys, version)
        return _Namespace(await self._remote.keys(namespace), version)

    def _note(self, error: RemoteUnavailable | asyncio.TimeoutError) -> RemoteUnavailable:
        unavailable = error if isinstance(error, RemoteUnavailable) else RemoteUnavailable("timeout")
        if self.trouble != unavailable.reason:
            log.warning("remote %s: %s", self._remote.name, unavailable)
        self.trouble = unavailable.reason
        self._backoff.failed(unavailable.retry_after_s)
        self._metrics.remote_failures.labels(self._remote.name, unavailable.reason).inc()
        return unavailable
