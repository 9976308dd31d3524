"""Bringing entries to a repo by commits: looked first, split where one is refused, paced by the budget.

Every try reads the head and what the repo holds of these entries at that commit, and names that commit as its parent.
So whatever became of a commit whose answer was lost, the next try knows.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

from neff.keys import ModuleName
from neffd.remotes.base import (
    NO_DOCUMENTS,
    EntryFailed,
    OutgoingEntry,
    PublishResult,
    RemoteFile,
    RemoteUnavailable,
    is_document_path,
)
from neffd.remotes.hub.budget import CommitBudget
from neffd.remotes.hub.failures import CommitSize, Step, Verdict, judge
from neffd.remotes.hub.fill import Fill
from neffd.remotes.hub.plan import CommitPlan, files_of, make_plan
from neffd.remotes.hub.workers import HubCallFailed

log = logging.getLogger(__name__)

CONFLICT_PAUSE_S = 0.5
# Another commit was faster: look again and try again, a few times before the usual back-off.
_CONFLICT_TRIES = 5
# Single entries that fail one after another are not to blame: the Hub is.
_DOUBTS_IN_A_ROW = 2
# Where something in the commit may be to blame.
_PERHAPS_ITS_CONTENT = (Step.HALVE, Step.PARK, Step.DOUBT)

# Of entries by name, of documents by path.
Outcomes = dict[ModuleName | str, PublishResult | EntryFailed]


class Commits:
    """Write access to one repo.

    Args:
        head: the commit that `main` points to now.
        look_up: paths and a commit to the files that are there.
        commit: makes one commit on top of a parent; raises HubCallFailed or RemoteUnavailable.
        conflict_pause_s: about how long to wait after a lost race; doubled after each further one.
    """

    def __init__(
        self,
        head: Callable[[], Awaitable[str]],
        look_up: Callable[[list[str], str], Awaitable[Mapping[str, RemoteFile]]],
        commit: Callable[[CommitPlan, str], Awaitable[None]],
        budget: CommitBudget,
        fill: Fill,
        conflict_pause_s: float = CONFLICT_PAUSE_S,
    ) -> None:
        self._head = head
        self._look_up = look_up
        self._commit = commit
        self._budget = budget
        self._fill = fill
        self._conflict_pause_s = conflict_pause_s
        self._size = CommitSize()
        # Failed alone at their last try: they go last and alone, so that they hold up nobody.
        self._doubtful: set[ModuleName] = set()

    async def bring(self, entries: Sequence[OutgoingEntry], documents: Mapping[str, bytes] = NO_DOCUMENTS) -> Outcomes:
        """One outcome for each entry, and for each document that was tried.

        Documents go with the last commit that the entries need, if all of them get there, or alone where there are no
        entries. One that failed is `permanent` only where the Hub refused it. Raises RemoteUnavailable where nothing
        could be settled at all.
        """
        documents = {path: content for path, content in documents.items() if is_document_path(path)}
        if not entries:
            return await self._bring_alone(documents)
        fresh = [entry for entry in entries if entry.name not in self._doubtful]
        waiting = deque([fresh] if fresh else [])
        waiting.extend([entry] for entry in entries if entry.name in self._doubtful)
        outcomes: Outcomes = {}
        doubtful: set[ModuleName] = set()
        failure: Verdict | None = None
        has_landed = False
        in_a_row = 0
        while waiting and in_a_row < _DOUBTS_IN_A_ROW:
            piece = self._next_piece(waiting)
            is_last = not waiting and failure is None and not _has_failures(outcomes)
            settled, verdict = await self._try(piece, documents if is_last else NO_DOCUMENTS)
            outcomes |= settled
            left = [entry for entry in piece if entry.name not in settled]
            if verdict is None:
                has_landed, in_a_row = True, 0
            elif verdict.step is Step.HALVE or (verdict.step is Step.DOUBT and has_landed and len(left) > 1):
                middle = len(left) // 2
                waiting.extendleft([left[middle:], left[:middle]])
            elif verdict.step is Step.DOUBT and len(left) == 1:
                failure, in_a_row = verdict, in_a_row + 1
                doubtful.add(left[0].name)
            else:
                failure = verdict
                break
        self._doubtful = doubtful
        if failure is None:
            return outcomes
        if not any(entry.name in outcomes for entry in entries):
            raise _unavailable(failure)
        for entry in entries:
            outcomes.setdefault(entry.name, EntryFailed(failure.reason, permanent=False))
        return outcomes

    async def _bring_alone(self, documents: Mapping[str, bytes]) -> Outcomes:
        outcomes, failure = await self._try([], documents) if documents else ({}, None)
        if failure is not None:
            raise _unavailable(failure)
        return outcomes

    def _next_piece(self, waiting: deque[list[OutgoingEntry]]) -> list[OutgoingEntry]:
        piece = waiting.popleft()
        limit = self._size.limit(len(piece))
        if limit < len(piece):
            waiting.appendleft(piece[limit:])
        return piece[:limit]

    async def _try(
        self, entries: Sequence[OutgoingEntry], documents: Mapping[str, bytes]
    ) -> tuple[Outcomes, Verdict | None]:
        """What was settled, and why the rest was not."""
        for attempt in range(_CONFLICT_TRIES):
            outcomes, plan, verdict = await self._attempt(entries, documents)
            if verdict is None or verdict.step is not Step.AGAIN:
                break
            await asyncio.sleep(self._conflict_pause_s * 2**attempt * (0.5 + random.random()))
        if verdict is not None and plan.documents and verdict.step in _PERHAPS_ITS_CONTENT:
            return await self._try_without(documents, verdict, entries)
        if verdict is not None and verdict.step is Step.PARK:
            log.warning("%s: %s: %s", plan.brings[0].name, verdict.reason, verdict.detail)
            outcomes |= {entry.name: EntryFailed(verdict.reason) for entry in plan.brings}
            verdict = None
        return outcomes, verdict

    async def _try_without(
        self, documents: Mapping[str, bytes], failure: Verdict, entries: Sequence[OutgoingEntry]
    ) -> tuple[Outcomes, Verdict | None]:
        """After a failure with documents: they had a part in it only if the entries now go without them."""
        log.warning("%s: %s: %s", next(iter(documents)), failure.reason, failure.detail)
        failed: Outcomes = dict.fromkeys(documents, EntryFailed(failure.reason, permanent=failure.is_refusal))
        if not entries:
            return (failed, None) if failure.is_refusal else ({}, failure)
        outcomes, verdict = await self._try(entries, NO_DOCUMENTS)
        are_to_blame = verdict is None and not _has_failures(outcomes)
        return (outcomes | failed if are_to_blame else outcomes), verdict

    async def _attempt(
        self, entries: Sequence[OutgoingEntry], documents: Mapping[str, bytes]
    ) -> tuple[Outcomes, CommitPlan, Verdict | None]:
        """Look, then commit what is missing; the outcomes are of those entries that need nothing further."""
        plan = CommitPlan()
        try:
            self._require(self._budget.held_s)
            head = await self._head()
            paths = [path for entry in entries for path in files_of(entry)]
            present = await self._look_up([*paths, *documents], head)
            new = [entry.name for entry in entries if present.keys().isdisjoint(files_of(entry))]
            no_room = self._fill.without_room(new)
            plan = make_plan([entry for entry in entries if entry.name not in no_room], present)
            outcomes = _settled(entries, plan, no_room)
            outcomes |= {path: PublishResult.ALREADY_THERE for path in documents if path in present}
            if not no_room and (plan.brings or not entries):
                plan.documents = {path: content for path, content in documents.items() if path not in present}
            if not plan.is_empty:
                self._require(self._budget.wait_s)
        except RemoteUnavailable as error:
            return {}, plan, judge(error, len(entries))
        if plan.is_empty:
            return outcomes, plan, None
        verdict = await self._carry_out(plan, head)
        if verdict is None:
            outcomes |= {entry.name: PublishResult.STORED for entry in plan.brings}
            outcomes |= dict.fromkeys(plan.documents, PublishResult.STORED)
            self._fill.added(set(new) & {entry.name for entry in plan.brings})
        return outcomes, plan, verdict

    def _require(self, wait_s: float) -> None:
        if wait_s > 0:
            raise RemoteUnavailable("commit-budget", retry_after_s=wait_s)

    async def _carry_out(self, plan: CommitPlan, parent: str) -> Verdict | None:
        self._budget.spend()
        try:
            await self._commit(plan, parent)
        except (HubCallFailed, RemoteUnavailable) as error:
            verdict = judge(error, len(plan.brings))
            if isinstance(error, HubCallFailed) and error.status is not None and error.status < 500:
                self._budget.give_back()
                if error.status == 429:
                    self._budget.hold(verdict.retry_after_s or 0.0)
            if verdict.step is Step.DOUBT and not plan.documents:
                self._size.doubted(len(plan.brings))
            return verdict
        self._size.landed()
        return None


def _has_failures(outcomes: Outcomes) -> bool:
    return any(isinstance(outcome, EntryFailed) for outcome in outcomes.values())


def _unavailable(failure: Verdict) -> RemoteUnavailable:
    return RemoteUnavailable(failure.reason, failure.detail, failure.retry_after_s)


def _settled(entries: Sequence[OutgoingEntry], plan: CommitPlan, no_room: Mapping[ModuleName, str]) -> Outcomes:
    """What needs no commit: complete already, another host's, or without room."""
    to_bring, theirs = {entry.name for entry in plan.brings}, {entry.name for entry in plan.there}
    outcomes: Outcomes = {}
    for name in (entry.name for entry in entries if entry.name not in to_bring):
        if name in no_room:
            outcomes[name] = EntryFailed(no_room[name])
        else:
            outcomes[name] = PublishResult.ALREADY_THERE if name in theirs else PublishResult.STORED
    return outcomes
