"""What is cared for on this host, put together: failures, pending graphs, and the story of each module."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from typing import Protocol

from neff.keys import ModuleName
from neff.protocol import Message, safe_text
from neffd.care.failed_entries import FailedEntries
from neffd.care.history import Asker, History
from neffd.care.pending import PendingFetches
from neffd.care.story import Stories
from neffd.care.verdict import Policy
from neffd.catalog.catalog import Catalog
from neffd.config import Config
from neffd.fetch.flight import Answer, Flight
from neffd.metrics import Metrics
from neffd.publish.take import Trust
from neffd.serve.status import Problems
from neffd.store.database import Database
from neffd.store.root import CacheRoot, FileFacts, Inspection
from neffd.tasks import Tasks

# Of these it is more important that the compile failed before than that nobody else has the graph.
_MISSES = frozenset({"not-on-remotes", "no-remotes", "remote-unavailable", "refused"})


class Client(Protocol):
    """Who asks: `neffd.serve.session.Session`."""

    root: str | None
    uid: int
    pid: int
    job: dict[str, str]


class RootCare:
    """What one cache directory is looked after by."""

    def __init__(
        self, root: CacheRoot, failed: FailedEntries, pending: PendingFetches | None, history: History
    ) -> None:
        self.root = root
        self.failed = failed
        self._pending = pending
        self._history = history

    def saw(self, name: ModuleName, looks: Inspection) -> None:
        """The collector has looked at an entry."""
        self.failed.saw(name, looks)
        if self._pending is not None:
            self._pending.saw(name, looks)

    def compile_s(self, name: ModuleName, neff: FileFacts) -> float | None:
        """The measured seconds of the compile that made this NEFF, if somebody measured them. From any thread."""
        return self._history.compile_s(self.root.path, name, neff)

    def start(self, tasks: Tasks) -> None:
        """Begin."""
        tasks.start(self.failed.run(), name=f"failed-{self.root.path}")
        if self._pending is not None:
            tasks.start(self._pending.run(), name=f"pending-{self.root.path}")


class Care:
    """Looks after every cache directory, and knows the stories.

    Args:
        catalogs: name and catalog of every remote, as they are now.
    """

    def __init__(
        self,
        database: Database,
        metrics: Metrics,
        workers: Executor,
        tasks: Tasks,
        catalogs: Callable[[], Sequence[tuple[str, Catalog]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.history = History(database)
        self._database = database
        self._metrics = metrics
        self._workers = workers
        self._tasks = tasks
        self._catalogs = catalogs
        self._clock = clock
        self._roots: dict[str, RootCare] = {}
        self._stories = Stories(
            self.history, database, workers, places=lambda: list(self._roots.values()), listings=catalogs
        )

    def look_after(
        self,
        root: CacheRoot,
        config: Config,
        trust: Trust,
        *,
        fetch: Callable[[ModuleName], Answer | Flight],
        problems: Problems,
    ) -> RootCare:
        """Look after one more cache directory; `fetch` begins to bring a module that nobody waits for yet."""
        note = functools.partial(self.history.note, root.path)
        failed = FailedEntries(
            root,
            self._database,
            self._metrics,
            self._workers,
            policy=Policy(config.failures.set_aside, config.failures.max_retries),
            trust=trust,
            settle_s=config.upload.settle_s,
            note=note,
            problems=problems,
            clock=self._clock,
        )
        pending = None
        if config.fetch.pending:
            pending = PendingFetches(
                self._tasks,
                catalogs=lambda: [catalog for _, catalog in self._catalogs()],
                fetch=fetch,
                note=note,
                clock=self._clock,
            )
        care = self._roots[str(root.path)] = RootCare(root, failed, pending, self.history)
        return care

    def start(self) -> None:
        """Begin."""
        self._tasks.start(self.history.run(), name="history")
        for care in self._roots.values():
            care.start(self._tasks)

    async def stop(self) -> None:
        """Write down what is not yet; what cannot be written is lost."""
        with contextlib.suppress(sqlite3.Error):
            await self.history.flush()

    def tell(self, client: Client, name: ModuleName, answer: Answer) -> Answer:
        """Note the final answer to a question; returns what the client is told, which knows of failed compiles."""
        care = self._roots.get(client.root or "") or next(iter(self._roots.values()), None)
        if care is None:
            return answer
        kept = care.failed.kept(name) if answer.reason in _MISSES and not answer.ready else None
        if kept is not None:
            answer = dataclasses.replace(answer, reason="failed-before", text=safe_text(kept.text()))
        self.history.asked(care.root.path, name, Asker(client.pid, client.uid, client.job), answer)
        return answer

    def taken(self, name: ModuleName, remotes: Collection[str]) -> None:
        """Note that an entry of this host is on its way to `remotes`."""
        self.history.note("", name, "taken", remotes=sorted(remotes))

    def delivered(self, remote: str, name: ModuleName, outcome: str) -> None:
        """Note what became of an upload."""
        self.history.note("", name, "delivered", remote=remote, outcome=outcome)

    async def why(self, text: str) -> Message:
        """What `neff why` shows of a name, a bare key, or the unique beginning of one. Raises sqlite3.Error."""
        return await self._stories.why(text)
