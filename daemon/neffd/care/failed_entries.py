"""Failed entries of one cache directory: each is read once, and set aside where another try may help.

Looks come from the collector; files and database are left to a worker thread. Nothing is touched while an entry is
locked or its record is younger than the settle time. A trainer that takes the lock between our look and the move has
either read the record, and repeats the failure once more, or compiles: both are what stock does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neff.keys import ModuleName
from neffd.care import set_aside
from neffd.care.failures import Failure, classify
from neffd.care.set_aside import CannotSetAside, Record
from neffd.care.verdict import Kept, Policy, reason_to_keep
from neffd.layouts import xla
from neffd.metrics import Metrics
from neffd.publish.take import Trust
from neffd.serve.status import Problems
from neffd.store import sharing
from neffd.store.database import Database
from neffd.store.root import CacheRoot, FileFacts, Inspection
from neffd.tasks import Wake

log = logging.getLogger(__name__)

# A failure that was set aside so long ago has nothing to do with the next one.
_FORGOTTEN_AFTER_S = 90 * 86_400.0
_AFTER_TROUBLE_S = 5.0
# What somebody may mend without touching the record: looked at again with every scan.
_MENDABLE = frozenset({"cannot-read", "cannot-remove"})


@dataclass(frozen=True)
class _Done:
    """What a worker did with one entry; `kept` is None where the record was moved to `moved_to`."""

    record: Record
    failure: Failure
    retried: int
    kept: Kept | None
    moved_to: Path | None = None

    @property
    def is_final(self) -> bool:
        """Whether another look at the same record would end the same way."""
        return self.kept is None or self.kept.reason not in _MENDABLE


_GONE, _YOUNG = "gone", "young"
Note = Callable[..., None]


class FailedEntries:
    """Looks after the failed entries below `root`.

    Args:
        trust: whose records may be moved.
        settle_s: how old a record must be.
        note: takes a module's name, what happened and facts, for its story.
        wall, clock: seconds since the epoch; monotonic seconds.
    """

    def __init__(
        self,
        root: CacheRoot,
        database: Database,
        metrics: Metrics,
        workers: Executor,
        *,
        policy: Policy,
        trust: Trust,
        settle_s: float,
        note: Note = lambda name, what, **facts: None,
        problems: Problems | None = None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._retries = _Retries(database, root.path, wall)
        self._metrics = metrics
        self._workers = workers
        self._policy = policy
        self._trust = trust
        self._settle_s = settle_s
        self._note = note
        self._problems = problems or Problems(str(root.path))
        self._wall = wall
        self._clock = clock
        self._due: set[ModuleName] = set()
        self._young: dict[ModuleName, tuple[FileFacts, float]] = {}
        self._judged: dict[ModuleName, _Done] = {}
        self._no_failures: dict[ModuleName, FileFacts] = {}
        self._recovered: set[ModuleName] = set()
        self._reported: dict[ModuleName, str] = {}  # for which reason
        self._wake = Wake()

    def saw(self, name: ModuleName, looks: Inspection) -> None:
        """The collector has looked at an entry."""
        if looks.state is xla.State.FAILED or (looks.state is xla.State.READY and self._is_suspect(name, looks)):
            self._due.add(name)
            self._wake.set()
        elif name in self._judged or name in self._retries.counts or name in self._reported:
            self._over(name, is_ready=looks.state is xla.State.READY)

    def kept(self, name: ModuleName) -> Kept | None:
        """The failure that stays in an entry, if one does."""
        done = self._judged.get(name)
        return done.kept if done is not None else None

    def retried(self, name: ModuleName) -> int:
        """How often a failure of this entry was set aside."""
        return self._retries.counts.get(name, 0)

    async def run(self) -> None:
        """Until cancelled: judge what was seen."""
        while not await self._is_loaded():  # noqa: ASYNC110, a full disk tells nobody when it is over
            await asyncio.sleep(_AFTER_TROUBLE_S)
        while True:
            await self._wake.wait(self._settle_s if self._young else None)
            recovered, self._recovered = self._recovered, set()
            for name in recovered:
                with contextlib.suppress(sqlite3.Error):  # then its next failures have fewer retries
                    await self._in_worker(self._retries.forget, name)
            due, self._due = self._due | set(self._young), set()
            for name in sorted(due):
                await self._look_after(name)

    async def _is_loaded(self) -> bool:
        try:
            await self._in_worker(self._retries.load)
        except sqlite3.Error as error:
            log.warning("how often failed compiles were set aside cannot be read: %s", error)
            return False
        return True

    def _is_suspect(self, name: ModuleName, looks: Inspection) -> bool:
        """Whether a ready entry may hold a failure's text in its NEFF, and was not found to hold none."""
        return set_aside.may_hold_text(name, looks.neff) and self._no_failures.get(name) != looks.neff

    async def _look_after(self, name: ModuleName) -> None:
        try:
            found = await self._in_worker(self._judge, name)
        except FileNotFoundError:  # it changes; the collector looks again
            found = None
        except CannotSetAside as error:
            self._report(name, error.reason, str(error), sharing.share_command(self._root.path))
            found = None
        except (OSError, sqlite3.Error) as error:
            log.warning("failed entry %s: %s", name, error)
            found = None
        if found == _YOUNG:
            return
        self._young.pop(name, None)
        if isinstance(found, _Done) and found != self._judged.get(name):
            self._tell(name, found)
        elif found == _GONE:
            self._over(name, is_ready=False)

    def _judge(self, name: ModuleName) -> _Done | str | None:
        """On a worker thread: set one entry's failure aside, or say why not; None if that was said before."""
        record = set_aside.find(self._root, name)
        if record is None:
            self._no_failure(name)
            return _GONE
        before = self._judged.get(name)
        if before is not None and before.record == record and before.is_final:
            return None
        if not self._has_settled(name, record.facts):
            return _YOUNG
        retried = self._retries.counts.get(name, 0)
        try:
            failure = classify(set_aside.read(record))
        except CannotSetAside as error:
            unread = Failure("not-readable", is_transient=False)
            return _Done(record, unread, retried, Kept(unread, error.reason, retried, error.hint))
        reason = reason_to_keep(failure, retried, self._policy, is_trusted=self._trust.covers(record.facts))
        if reason is None:
            if set_aside.find(self._root, name) != record:  # locked meanwhile, say
                return _GONE
            try:
                moved_to = self._set_aside(name, record)
                return _Done(record, failure, retried + 1, None, moved_to)
            except CannotSetAside as error:
                reason = error.reason
        return _Done(record, failure, retried, Kept(failure, reason, retried, set_aside.removal(record)))

    def _set_aside(self, name: ModuleName, record: Record) -> Path:
        # Counted first: a kill in between costs a retry, never adds one.
        self._retries.add(name)
        try:
            moved_to = set_aside.move(self._root, name, record)
        except BaseException:
            self._retries.add(name, -1)
            raise
        set_aside.prune(self._root)
        return moved_to

    def _has_settled(self, name: ModuleName, facts: FileFacts) -> bool:
        """Old enough by its time, or, where that is not to be trusted, unchanged for long enough."""
        if self._wall() - facts.mtime_ns / 1e9 >= self._settle_s:
            return True
        seen, since = self._young.setdefault(name, (facts, self._clock()))
        if seen != facts:
            self._young[name] = (facts, self._clock())
            return False
        return self._clock() - since >= self._settle_s

    def _no_failure(self, name: ModuleName) -> None:
        """A NEFF of a compiler up to 2.14 that is one: not read again while it stays."""
        looks = self._root.inspect(name)
        if looks.state is xla.State.READY and looks.neff is not None:
            self._no_failures[name] = looks.neff
            self._retries.forget(name)

    def _tell(self, name: ModuleName, done: _Done) -> None:
        self._judged[name] = done
        self._mended(name)
        failure, kept = done.failure, done.kept
        facts: dict[str, Any] = {"reason": failure.reason, "text": failure.text, "retried": done.retried}
        if kept is None:
            self._metrics.failed_compiles.labels("set-aside", failure.reason).inc()
            log.info("%s: failed compile set aside (%s), retry %d", name, failure.reason, done.retried)
            self._note(name, "failure-set-aside", **facts, kept_at=str(done.moved_to))
            return
        self._metrics.failed_compiles.labels("kept", failure.reason).inc()
        # Judged again after each start, it is one event all the same.
        self._note(
            name, "failure-kept", **facts, why=kept.reason, hint=kept.hint, failed_at=_seconds(done.record), once=True
        )
        if kept.reason == "untrusted-owner":
            detail = f"{name}: the log of a failed compile belongs to uid {done.record.facts.uid}"
            self._report(name, kept.reason, detail, "add its owner to upload.trusted_uids")
        elif kept.reason in _MENDABLE:
            self._report(name, kept.reason, str(done.record.path), sharing.share_command(self._root.path))

    def _over(self, name: ModuleName, *, is_ready: bool) -> None:
        """The entry is no failed one any more; when it became ready, its retries count from 0 again."""
        self._judged.pop(name, None)
        self._mended(name)
        if is_ready and name in self._retries.counts:
            self._recovered.add(name)
            self._wake.set()

    def _report(self, name: ModuleName, reason: str, detail: str, hint: str) -> None:
        self._reported[name] = reason
        self._problems.note(reason, detail, hint, _subject(name))

    def _mended(self, name: ModuleName) -> None:
        reason = self._reported.pop(name, None)
        if reason is not None:
            self._problems.over(reason, subject=_subject(name))

    async def _in_worker(self, work: Callable[..., Any], *args: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work, *args)


class _Retries:
    """How often the failure of each entry was set aside, durable. Blocking."""

    def __init__(self, database: Database, root: Path, wall: Callable[[], float]) -> None:
        self._database = database
        self._root = str(root)
        self._wall = wall
        self.counts: dict[ModuleName, int] = {}

    def load(self) -> None:
        def read(connection: sqlite3.Connection) -> Collection[tuple[str, str, int]]:
            connection.execute("DELETE FROM failures WHERE last_at < ?", (self._wall() - _FORGOTTEN_AFTER_S,))
            query = "SELECT namespace, key, count FROM failures WHERE root = ?"
            return connection.execute(query, (self._root,)).fetchall()

        self.counts = {ModuleName(namespace, key): count for namespace, key, count in self._database.run_blocking(read)}

    def add(self, name: ModuleName, more: int = 1) -> None:
        count = self.counts.get(name, 0) + more
        if not count:
            self.forget(name)
            return
        row = (self._root, *name, count, self._wall())
        self._database.run_blocking(
            lambda connection: connection.execute("INSERT OR REPLACE INTO failures VALUES (?,?,?,?,?)", row)
        )
        self.counts[name] = count

    def forget(self, name: ModuleName) -> None:
        if self.counts.pop(name, None) is None:
            return
        where = "root = ? AND namespace = ? AND key = ?"
        self._database.run_blocking(
            lambda connection: connection.execute(f"DELETE FROM failures WHERE {where}", (self._root, *name))
        )


def _subject(name: ModuleName) -> str:
    return f"{name}/{xla.FAILURE_LOG}"


def _seconds(record: Record) -> float:
    return round(record.facts.mtime_ns / 1e9, 3)
