"""A cache directory, a journal and a collector of one test, in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from neff.keys import ModuleName
from neffd.metrics import Metrics
from neffd.publish.audience import Audience
from neffd.publish.collect import Collector
from neffd.publish.journal import Journal
from neffd.publish.take import Trust
from neffd.serve.status import Problems
from neffd.store.database import Database
from neffd.store.index import Index
from neffd.store.root import CacheRoot
from tests.unit.waiting import until


@pytest.fixture
def index(database: Database) -> Index:
    return Index(database)


@pytest.fixture
def journal(database: Database, index: Index) -> Journal:
    return Journal(database, index)


class _Told(Problems):
    """Notes each problem, and each that is over."""

    def __init__(self, collecting: Collecting) -> None:
        super().__init__("cache")
        self._collecting = collecting

    def note(self, reason: str, detail: str, hint: str, subject: str = "") -> None:
        super().note(reason, detail, hint, subject)
        self._collecting.problems.append((reason, hint))

    def over(self, reason: str, hint: str | None = None, subject: str | None = None) -> None:
        super().over(reason, hint, subject)
        self._collecting.healed.append(reason)


class Collecting:
    """A collector at work, and what it told."""

    def __init__(self, root: CacheRoot, index: Index, journal: Journal, workers: ThreadPoolExecutor) -> None:
        self.metrics = Metrics()
        self.problems: list[tuple[str, str]] = []
        self.healed: list[str] = []
        self.taken = 0
        self.settling_when_taken: list[int] = []
        self.collector = Collector(
            root,
            index,
            journal,
            self.metrics,
            workers,
            audience=lambda: Audience(frozenset({"one"}), frozenset(), existing=True),
            trust=Trust.of(root.path, None, None),
            settle_s=0.1,
            scan_s=3600,
            on_taken=lambda name, item, remotes: self._count(),
            problems=_Told(self),
        )

    def _count(self) -> None:
        self.taken += 1
        self.settling_when_taken.append(self.collector.settling)

    def scans(self, why: str) -> int:
        return int(self.metrics.value("neffd_scans_total", why=why))

    async def until(self, look: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
        """Wait until `look` is true, with the collector running."""
        await until(look, what, timeout_s)

    async def until_scanned(self) -> None:
        await self.until(lambda: self.scans("start"), "the first scan")
        await self.collector.scan_now()


@contextlib.asynccontextmanager
async def collecting(root: CacheRoot, index: Index, journal: Journal) -> AsyncIterator[Collecting]:
    """Run a collector; an error of its own ends the test."""
    workers = ThreadPoolExecutor(2)
    made = Collecting(root, index, journal, workers)
    task = asyncio.create_task(made.collector.run())  # noqa: TID251
    try:
        await made.until_scanned()
        yield made
        assert not task.done() or task.result() is None, "the collector ended by itself"
    finally:
        task.cancel()
        await asyncio.wait({task})
        workers.shutdown()


async def taken_names(journal: Journal) -> list[ModuleName]:
    rows = await journal.load(await journal.open_items("one"), "one")
    return [row.entry.name for row in rows]
