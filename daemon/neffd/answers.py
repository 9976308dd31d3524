"""What the daemon as a whole answers: to sessions, operations and pages.

Fits `serve.session.Host`, `serve.operations.Daemon` and `serve.http.StatusSource`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any

from neff.keys import ModuleName
from neff.protocol import Message
from neffd import __version__
from neffd.compiles.keeper import Keeper
from neffd.fetch.flight import fetching_status
from neffd.managed import ManagedRoot
from neffd.remote_list import MISNAMED, RemoteList
from neffd.resources import Resources
from neffd.runs.identity import Identity
from neffd.runs.jobs import Jobs
from neffd.runs.plans import Expected
from neffd.serve.session import Resolver, Session
from neffd.serve.status import counters

_FLUSH_LOOK_S = 0.1


class Answers:
    """Args:
    is_stopping: whether the daemon is on its way out.
    """

    def __init__(
        self,
        shared: Resources,
        roots: Sequence[ManagedRoot],
        remotes: RemoteList,
        keeper: Keeper,
        jobs: Jobs,
        *,
        is_stopping: Callable[[], bool],
    ) -> None:
        self.metrics = shared.metrics
        self.tasks = shared.tasks
        self.limits = shared.limits
        self._config = shared.config
        self._problems = shared.problems
        self._clock = shared.clock
        self._began_at = shared.clock()
        self._roots = roots
        self._remotes = remotes
        self._keeper = keeper
        self._jobs = jobs
        self._is_stopping = is_stopping

    def find_root(self, hello: Message) -> tuple[Resolver | None, str | None, str | None]:
        """The managed directory that a client means: the same directory, under whatever path."""
        path = hello.get("root")
        if path is None:
            return None, None, "no-cache-dir"
        identity = (hello.get("device"), hello.get("inode"))
        for managed in self._roots:
            root = managed.root
            # By its path only where the client sees no directory yet: a container may have another one of that name.
            if identity == root.identity() or (identity == (None, None) and path == str(root.path)):
                self._remotes.expect_questions()
                return managed.fetcher, str(root.path), self._remotes.use_client_repo(hello.get("repo"))
        return None, None, "other-cache-dir"

    def resolver_for(self, name: ModuleName) -> Resolver | None:
        """The first cache directory, which is the only one on most hosts."""
        return self._roots[0].fetcher if self._roots else None

    async def full_names(self, keys: Collection[str]) -> dict[str, list[ModuleName]]:
        """For each bare key the names under which some remote holds it; without those that nobody can tell of."""
        return await self._remotes.full_names(keys)

    async def expected(self, identity: Identity) -> Expected:
        """What a run is going to need, as far as earlier ones tell."""
        return await self._jobs.expected(identity)

    def is_of(self, session: Session, run_key: str) -> bool:
        """Whether a client belongs to a run of this key."""
        return self._jobs.is_of(session, run_key)

    async def listed(self, namespace: str) -> tuple[list[ModuleName], list[str]]:
        """What remotes hold of a compiler version, and which of them could not be asked, or not to the end."""
        return await self._remotes.listed(namespace)

    async def flush(
        self, timeout_s: float, progress: Callable[[int], None], *, hurry: bool = True
    ) -> tuple[int, list[dict[str, str]]]:
        """Look once more, send what waits, until nothing does or `timeout_s` has passed; without `hurry` only wait."""
        began = self._clock()
        deadline = began + timeout_s
        # What has just been compiled is let settle first, so that all of it goes as one batch.
        settled_by = began + 2 * self._config.upload.settle_s + 1
        for managed in self._roots if hurry else ():
            await managed.collector.scan_now()
        shown = -1
        while ((pending := self._pending()) or self._remotes.companions_ready) and self._clock() < deadline:
            if pending != shown:
                progress(pending)
                shown = pending
            is_settled = self._clock() > settled_by or not any(managed.collector.settling for managed in self._roots)
            if hurry and is_settled:
                self._remotes.flush()
            await asyncio.sleep(_FLUSH_LOOK_S)
        parked = [
            {"name": str(kept.name), "remote": kept.remote, "reason": kept.reason} for kept in self._remotes.parked()
        ]
        return self._pending(), parked

    def status(self) -> dict[str, Any]:
        """The status document; its form is described in docs/protocol.md."""
        now = self._clock()
        flights = [flight for managed in self._roots for flight in managed.fetcher.flights.under_way()]
        return {
            "schema": 1,
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": round(now - self._began_at, 1),
            "state": "stopping" if self._is_stopping() else "running",
            "problems": self._problems.status(),
            "cache_dirs": [managed.status() for managed in self._roots],
            "remotes": [remote.status() for remote in self._remotes],
            "orphaned": [{"remote": remote, "waiting": len(names)} for remote, names in self._remotes.orphans.items()],
            **fetching_status(flights, now),
            "compiling": self._keeper.status(),
            "runs": self._jobs.status(),
            "limits": self.limits.status(),
            "counters": counters(self.metrics),
        }

    def health(self) -> list[str]:
        """Why the daemon cannot do its work; a remote that is away is no such reason."""
        reasons = ["stopping"] if self._is_stopping() else []
        troubles = [problem for problem in self._problems.status() if problem["reason"] != MISNAMED]
        reasons += [f"{problem['reason']}: {problem['detail']}" for problem in troubles]
        return reasons + [
            f"{managed.root.path}: {problem}" for managed in self._roots for problem in managed.problems.fatal()
        ]

    def _pending(self) -> int:
        """What is not known yet counts as one."""
        settling = sum(managed.collector.settling + managed.collector.is_blind for managed in self._roots)
        return self._remotes.waiting + self._remotes.unread + settling
