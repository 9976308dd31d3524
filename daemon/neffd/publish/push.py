"""Carrying journal rows to one remote, in batches, until it has confirmed them."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from neff.keys import ModuleName
from neffd import points
from neffd.breaker import Breaker, BreakerOpen
from neffd.metrics import Metrics
from neffd.publish.batch import Batcher, Item, Limits
from neffd.publish.companions import Companions, go_alone, riding
from neffd.publish.journal import Journal, Parked, Row
from neffd.publish.parking import CAUSED_BY_ACCESS, LOST, PRIVATE_MODEL, WORTH_A_TRY_AT_START, is_any_for, is_whole
from neffd.remotes.base import (
    NO_DOCUMENTS,
    Access,
    EntryFailed,
    OutgoingEntry,
    PublishResult,
    Remote,
    RemoteUnavailable,
)
from neffd.tasks import Wake

log = logging.getLogger(__name__)

_READ_ONLY_RECHECK_S = 300.0
_LOOK_S = 5.0
_PUBLISH_LIMIT_S = 6 * 3600.0  # a last resort: remotes end what does not move


class _SomeFailed(RemoteUnavailable):
    """Entries of a batch wait for another try; what became of the others is settled."""


class Pusher:
    """One remote's side of the journal.

    Args:
        allow_public: whether a remote that anybody can read may receive entries.
        allow_private_models: whether it may receive those of models that are not public.
        is_private: whether an entry belongs to such a model, or to one of which that is not known.
        find_out: learns of these entries whether they do, as far as that can be learnt soon.
        companions: what goes with entries.
        existing: what to do with entries from before the first start: `never`, `private-only` or `always`.
        is_refused: whether the copy of an entry that the remote holds now failed our own verification.
        writes: whether the remote may be written now.
        on_outcome: told what became of an entry: `stored`, `already-there`, or why it is parked.

    Attributes:
        has_begun: what an earlier life left is queued; until then nobody knows what waits.
    """

    def __init__(
        self,
        remote: Remote,
        journal: Journal,
        metrics: Metrics,
        limits: Limits,
        *,
        allow_public: bool,
        existing: str,
        allow_private_models: bool = False,
        is_private: Callable[[ModuleName], bool] = lambda name: False,
        find_out: Callable[[Collection[ModuleName]], Awaitable[None]] | None = None,
        companions: Companions | None = None,
        is_refused: Callable[[ModuleName], Awaitable[bool]] | None = None,
        writes: Breaker | None = None,
        on_outcome: Callable[[ModuleName, str], None] = lambda name, outcome: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.writes = writes or Breaker(clock)
        self._remote = remote
        self._journal = journal
        self._metrics = metrics
        self._batcher = Batcher(limits, clock)
        self._allow_public = allow_public
        self._existing = existing
        self._allow_private_models = allow_private_models
        self._is_private = is_private
        self._find_out = find_out
        self._companions = companions
        self._is_hurried = False
        self._is_refused = is_refused
        self._on_outcome = on_outcome
        self._wake = Wake()
        self._is_new_root = False
        self._under_way: list[Item] = []
        self.access: Access | None = None
        self.trouble: str | None = None
        self.parked: dict[int, Parked] = {}
        self.has_begun = False
        if companions is not None:
            companions.on_change = self._wake.set

    @property
    def waiting(self) -> int:
        """Entries queued or under way."""
        return len(self._batcher) + len(self._under_way)

    @property
    def oldest_s(self) -> float | None:
        """Age of the oldest entry that waits or is under way, by the wall clock."""
        queued_at = [self._batcher.oldest_queued_at, *(item.queued_at for item in self._under_way)]
        oldest_at = min((at for at in queued_at if at is not None), default=None)
        return None if oldest_at is None else max(0.0, time.time() - oldest_at)

    @property
    def companions_ready(self) -> int:
        """Documents that could go now, while nothing is in the way."""
        is_well = self.trouble is None and self.writes.reason is None
        return self._companions.ready if self._companions is not None and is_well else 0

    def companions_status(self) -> dict[str, Any] | None:
        """For the status document."""
        return None if self._companions is None else self._companions.status()

    @property
    def is_busy(self) -> bool:
        """Whether a batch is on its way."""
        return bool(self._under_way)

    @property
    def is_hopeful(self) -> bool:
        """Whether something waits, and nothing is in its way."""
        return self.waiting > 0 and self.trouble is None and self.writes.reason is None

    def add(self, item: Item) -> None:
        """Queue an entry that the journal holds for this remote."""
        self._batcher.add(item)
        self._note_load()
        self._wake.set()

    def look_again(self) -> None:
        """See whether what is held back may go now."""
        self._wake.set()

    def look_for_lost(self) -> None:
        """Files of entries that could not be sent may be there again: try those once more."""
        self._is_new_root = True
        self._wake.set()

    def flush(self) -> None:
        """Send what waits without its quiet time."""
        self._batcher.flush()
        if self._companions is not None:
            self._companions.flush()
        self._wake.set()

    def hurry(self) -> None:
        """Send what can be sent before an end that is near."""
        self._is_hurried = True
        self._batcher.hurry()
        self.flush()

    async def run(self) -> None:
        """Push until cancelled; first what an earlier life left."""
        while not await self._begin():  # noqa: ASYNC110, a full disk tells nobody when it is over
            await asyncio.sleep(_LOOK_S)
        await self._attempt(self._check_access)
        while True:
            await self._wait_until_due()
            if await self._attempt(self._check_access) is None:
                await self._push_companions(await self._attempt(self._push_batch))

    async def _begin(self) -> bool:
        """Take up what an earlier life left; false while the journal cannot be written."""
        try:
            await self._journal.unpark(self._remote.name, WORTH_A_TRY_AT_START)
            self.parked = await self._journal.parked(self._remote.name)
            await self._queue_open_items()
            if self._companions is not None:
                await self._companions.load()
        except sqlite3.Error as error:
            self._failed(RemoteUnavailable("disk", str(error)))
            return False
        self.trouble, self.has_begun = None, True
        return True

    async def _attempt(self, work: Callable[[], Awaitable[None]]) -> RemoteUnavailable | None:
        """Run `work`; a failure that may pass is noted, postpones the next attempt, and is returned."""
        try:
            with self.writes.attempt(is_transfer=work == self._push_batch):
                try:
                    await work()
                except (OSError, sqlite3.Error) as error:  # the journal cannot be written just now
                    raise RemoteUnavailable("disk", str(error)) from error
        except BreakerOpen as error:
            self.trouble = error.reason
            return error
        except RemoteUnavailable as error:
            self._failed(error)
            return error
        return None

    async def _unpark_what_may_go(self) -> None:
        """What was parked because anybody could read the remote, or because its files were not there."""
        over = []
        if self._may_be_told:
            over += [reason for reason in CAUSED_BY_ACCESS if is_any_for(self.parked.values(), [reason])]
        if self._has_come_free:
            over.append(PRIVATE_MODEL)
        may_be_found = self._may_be_found
        if may_be_found:
            over += LOST
        if not over:
            return
        self._is_new_root &= not may_be_found
        try:
            await self._journal.unpark(self._remote.name, over)
        except BaseException:
            self._is_new_root |= may_be_found
            raise
        self.parked = {number: kept for number, kept in self.parked.items() if kept.reason not in over}
        await self._queue_open_items()

    async def _queue_open_items(self) -> None:
        for item in await self._journal.open_items(self._remote.name):
            self._batcher.add(item)
        self._note_load()

    async def _wait_until_due(self) -> None:
        while True:
            due_in_s = 0.0 if self._has_come_free or self._may_be_found else self._batcher.due_in_s
            if due_in_s is None and self.trouble is not None:
                due_in_s = 0.0  # nothing to send, but whether the trouble is over is worth knowing
            if due_in_s is None and self._companions is not None:
                due_in_s = self._companions.due_in_s
            if due_in_s is not None:
                due_in_s = max(due_in_s, self.writes.retry_s)
                if due_in_s == 0:
                    return
                due_in_s = min(due_in_s, _LOOK_S)  # the other side may find the host back sooner
            elif self._may_be_told and is_any_for(self.parked.values(), [PRIVATE_MODEL]):
                due_in_s = _LOOK_S
            await self._wake.wait(due_in_s)

    async def _check_access(self) -> None:
        """Find out what we may do, again after a failure; raises RemoteUnavailable where we may not write."""
        if self.access is None or self.trouble is not None or self.writes.reason is not None:
            self.access = await self._remote.access()
        if not self.access.can_write:
            reason = self.access.reason or "no-write-access"
            raise RemoteUnavailable(reason, retry_after_s=_READ_ONLY_RECHECK_S)
        if self._companions is not None:
            self._companions.access(self._is_public)
        await self._unpark_what_may_go()

    async def _push_batch(self) -> None:
        items = self._under_way = self._batcher.take()
        left = {item.id: item for item in items}
        try:
            rows = await self._journal.load(items, self._remote.name)
            left = {row.item.id: row.item for row in rows}
            await self._learn_whose([row.entry.name for row in rows])
            wanted = [row for row in rows if not await self._stays(row)]
            outcomes = await self._publish(wanted) if wanted else []
            settled = [row for row, outcome in zip(wanted, outcomes, strict=True) if await self._settle(row, outcome)]
            for number in [*self.parked, *(row.item.id for row in settled)]:
                left.pop(number, None)
            if left:
                failed = (outcome for outcome in outcomes if isinstance(outcome, EntryFailed) and not outcome.permanent)
                why = next((outcome.reason for outcome in failed), "disk")
                raise _SomeFailed(why, "some entries wait for another try")
        except BaseException:
            for item in left.values():
                self._batcher.add(item)
            raise
        finally:
            self._under_way = []
            self._note_load()
        # A newer copy may have replaced one that was parked.
        self.parked = await self._journal.parked(self._remote.name)
        self.trouble = None

    async def _publish(self, rows: list[Row]) -> list[PublishResult | EntryFailed]:
        entries = [row.entry for row in rows]
        documents = await self._riding([entry.name for entry in entries])
        outcomes = await self._send(entries, documents)
        points.reached("before-confirmation")
        if self._companions is not None and documents:
            await self._companions.went(dict(zip(documents, outcomes[len(rows) :], strict=True)), alone=False)
        return outcomes[: len(rows)]

    async def _send(
        self, entries: Sequence[OutgoingEntry], documents: Mapping[str, bytes]
    ) -> list[PublishResult | EntryFailed]:
        try:
            return await asyncio.wait_for(self._remote.publish(entries, documents), _PUBLISH_LIMIT_S)
        except asyncio.TimeoutError:
            raise RemoteUnavailable("timeout") from None

    async def _riding(self, names: Collection[ModuleName]) -> Mapping[str, bytes]:
        if self._companions is None or self._is_hurried:
            return NO_DOCUMENTS
        return await riding(self._companions, names, self._remote.name)

    async def _push_companions(self, failure: RemoteUnavailable | None) -> None:
        """Documents that nothing takes along, after a batch: where that failed, they wait for none."""
        if self._companions is None or self._companions.due_in_s != 0:
            return
        is_their_turn = not len(self._batcher) if failure is None else _may_be_its_entries(failure)
        if is_their_turn:
            await go_alone(self._companions, self._send, self._remote.name)

    async def _settle(self, row: Row, outcome: PublishResult | EntryFailed) -> bool:
        """Write one outcome down; false if the entry has to be tried again."""
        remote = self._remote.name
        if isinstance(outcome, EntryFailed):
            if outcome.permanent:
                await self._park(row, outcome.reason)
            return outcome.permanent
        is_theirs = outcome is PublishResult.ALREADY_THERE
        if is_theirs and self._is_refused is not None and await self._is_refused(row.entry.name):
            # Closing the row would leave everybody with a copy that nobody can use.
            await self._park(row, "refused-copy-there")
            return True
        points.reached("after-confirmation")
        await self._journal.close(row.item, remote)
        if outcome is PublishResult.STORED:
            self._metrics.published_entries.labels(remote).inc()
            self._metrics.published_bytes.labels(remote).inc(row.item.size_bytes)
        else:
            self._metrics.already_there.labels(remote).inc()
        self._on_outcome(row.entry.name, outcome.value)
        log.info("%s to %s: %s", row.entry.name, remote, outcome.value)
        return True

    @property
    def _is_public(self) -> bool:
        """Unknown counts as public: what was pushed to everybody cannot be taken back."""
        return self.access is None or self.access.public is not False

    @property
    def _may_be_told(self) -> bool:
        return self._allow_public or not self._is_public

    @property
    def _asks_whose(self) -> bool:
        return self._is_public and self._allow_public and not self._allow_private_models

    @property
    def _has_come_free(self) -> bool:
        """Whether something was held back that need not be any more: its model has been published meanwhile."""
        held = (kept.name for kept in self.parked.values() if kept.reason == PRIVATE_MODEL)
        return self.access is not None and self._may_be_told and not all(map(self._is_held_back, held))

    @property
    def _may_be_found(self) -> bool:
        """Whether something is parked whose files may be there again."""
        return self._is_new_root and is_any_for(self.parked.values(), LOST)

    def _is_held_back(self, name: ModuleName) -> bool:
        return self._is_public and not self._allow_private_models and self._is_private(name)

    async def _learn_whose(self, names: Collection[ModuleName]) -> None:
        if self._find_out is not None and self._asks_whose and names:
            await self._find_out(names)

    async def _stays(self, row: Row) -> bool:
        """Rule 5: nothing to a public remote unless it was allowed; old entries as configured. It is parked then.

        An entry whose pinned files are gone would fail, and its whole batch with it, for ever; one of which that cannot
        be told, since a mount is away, say, is not parked.
        """
        reason = ""
        if self._is_public and not self._allow_public:
            reason = "public-repo"
        elif self._is_held_back(row.entry.name):
            reason = PRIVATE_MODEL
        elif row.existing and self._is_public and self._existing == "private-only":
            reason = "existing-on-public"
        else:
            try:
                reason = "" if await asyncio.to_thread(is_whole, row.entry) else "files-lost"
            except OSError as error:
                log.info("the pinned files of %s: %s", row.entry.name, error)
                return True
        if reason:
            await self._park(row, reason)
        return bool(reason)

    async def _park(self, row: Row, reason: str) -> None:
        if not await self._journal.park(row.item, self._remote.name, reason):
            log.info("%s was written over before it went to %s, and is taken anew", row.entry.name, self._remote.name)
            return
        log.warning("%s is parked for %s: %s", row.entry.name, self._remote.name, reason)
        self._on_outcome(row.entry.name, reason)
        self.parked[row.item.id] = Parked(row.entry.name, self._remote.name, reason)

    def _failed(self, error: RemoteUnavailable) -> None:
        if self.trouble != error.reason:
            log.warning("pushing to %s: %s", self._remote.name, error)
        self.trouble = error.reason
        self._metrics.remote_failures.labels(self._remote.name, error.reason).inc()

    def _note_load(self) -> None:
        self._metrics.journal_waiting.labels(self._remote.name).set(self.waiting)


def _may_be_its_entries(failure: RemoteUnavailable) -> bool:
    """Whether a batch failed by some of its entries, perhaps, and not since the remote is away or wants a rest."""
    return isinstance(failure, _SomeFailed) or (failure.may_be_the_content and failure.retry_after_s is None)
