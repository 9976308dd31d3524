"""What one remote has still to be told of runs: what rides on a batch of entries, what goes alone, and when.

A manifest only ever names what the remote holds, or gets in the same batch. It goes where it adds to what others said
of the same run key: on a batch if there is one (while the run goes on, each time as much is new as was told before, so
that a long run leaves few files), else once by itself after the run's end.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from neff.keys import ModuleName
from neffd.limits import fairly
from neffd.metrics import Metrics
from neffd.remotes.base import NOT_TRIED, EntryFailed, PublishResult, RemoteUnavailable
from neffd.retry import Backoff
from neffd.runs import manifests
from neffd.runs.identity import split_name
from neffd.runs.manifests import Manifest
from neffd.runs.pending import KEEP_S, Pending, PendingBook
from neffd.runs.turns import FIRST_RETRY_S, LONGEST_RETRY_S, Turns

log = logging.getLogger(__name__)

PRIVATE = "private-model"
_MAX_WAITING = 200
# From one commit without entries to the next: an hour's commits are for entries.
_GAP_S = 120.0
_TRIES = 3
# So many looks may fail in one go: each takes up to two seconds, and entries wait for what is to ride with them.
_VAIN_LOOKS_ALONE, _VAIN_LOOKS_RIDING = 3, 1
# How long after its end the last modules of a run may take to get there.
_REST_S = 3600.0
# What others bring there is looked at now and then.
_LOOK_S = 60.0


class _NobodyKnows(Exception):
    """What the remote was told before cannot be read now."""


class Outgoing:
    """Fits `neffd.publish.companions.Companions`.

    Args:
        allow_public, allow_private: whether a remote that anybody can read may receive anything, and what belongs to
        private models.
        is_open: whether what a run used may be told to everybody: its model is public.
        holds: whether the remote is known to hold a module.
        known: keys that manifests on the remote name for the run key of this one; None where nobody can tell now.
        on_told: called when the remote has taken something.
        quiet_s: how long after a run's end its manifest waits for entries to ride with.
        max_delay_s: the same where some of its modules are not on the remote.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        remote: str,
        book: PendingBook,
        metrics: Metrics,
        *,
        allow_public: bool,
        allow_private: bool,
        is_open: Callable[[Pending], bool] = lambda one: not one.is_private,
        holds: Callable[[ModuleName], bool],
        known: Callable[[Manifest], Awaitable[frozenset[str] | None]],
        on_told: Callable[[], None],
        quiet_s: float,
        max_delay_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._remote = remote
        self._book = book
        self._metrics = metrics
        self._allow_public = allow_public
        self._allow_private = allow_private
        self._is_open = is_open
        self._holds = holds
        self._known = known
        self._on_told = on_told
        self._quiet_s = quiet_s
        self._max_delay_s = max_delay_s
        self._clock = clock
        self._waiting: dict[tuple[str, str], Pending] = {}
        self._under_way: dict[str, tuple[Pending, frozenset[str]]] = {}
        self._is_public: bool | None = None
        self._next_alone_s = clock()
        self._retry = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S, clock)
        self._turns = Turns(clock)
        self._is_flushing = False
        self.on_change: Callable[[], None] = lambda: None

    @property
    def due_in_s(self) -> float | None:
        """Seconds until something may go without entries, or is worth a look; None while nothing waits."""
        if self._is_public is None or not self._waiting:
            return None
        return min((self._due_in_s(one) for one in self._all), default=None)

    @property
    def ready(self) -> int:
        """How many may go without entries now, if somebody wants that."""
        rest_s = self._retry.wait_s
        return sum(max(rest_s, self._turns.wait_s(one)) == 0 and self._may_go_alone(one) for one in self._all)

    def status(self) -> dict[str, Any]:
        """For the status document."""
        held = sum(not self._may_go(one) for one in self._all)
        return {"waiting": self._untold, "held": held, "reason": PRIVATE if held and self._allow_public else None}

    @property
    def _all(self) -> Collection[Pending]:
        return self._waiting.values()

    @property
    def _untold(self) -> int:
        return sum(any(module.key not in one.told for module in one.manifest.modules) for one in self._all)

    async def load(self) -> None:
        """Go on with what an earlier life left."""
        try:
            for one in await self._book.load(self._remote, self._clock()):
                self._waiting.setdefault((one.run, one.manifest.namespace), one)
        except sqlite3.Error as error:
            log.info("manifests for %s: %s", self._remote, error)
        self._note_load()

    async def put(self, run: str, manifest: Manifest, *, private: bool, has_ended: bool) -> None:
        """A run has used these modules so far, or in all; what was said of the same run before is replaced."""
        key, now_s = (run, manifest.namespace), self._clock()
        one = self._waiting.get(key)
        if one is None:
            self._waiting[key] = one = Pending(run, manifest, private, has_ended, now_s)
        else:
            one.manifest, one.changed_s = manifest, now_s
            one.is_private, one.has_ended = one.is_private or private, one.has_ended or has_ended
        await self._write(one)
        while len(self._waiting) > _MAX_WAITING:
            oldest_first = sorted(self._waiting.values(), key=lambda waiting: waiting.changed_s)
            await self._forget(fairly(oldest_first, lambda waiting: split_name(waiting.run)[0])[0])
        self._note_load()
        self.on_change()

    def access(self, is_public: bool) -> None:
        """Who may read the remote, as it is known now."""
        self._is_public = is_public

    def flush(self) -> None:
        """Send what may go without waiting for entries."""
        self._is_flushing = bool(self.ready)

    async def riding(self, names: Collection[ModuleName]) -> Mapping[str, bytes]:
        """What goes with a batch of entries, by path. Never raises."""
        await self._drop_old()
        batch = frozenset(names)
        for one in [one for one in self._all if one.went_alone and _is_any_of(batch, one)]:
            one.went_alone = False  # what misses this ride has none after it
            await self._write(one)
        candidates = [one for one in self._all if self._may_go(one) and not one.refusals]
        return await self._gather(candidates, batch, _VAIN_LOOKS_RIDING)

    async def alone(self) -> Mapping[str, bytes]:
        """What is to go now without entries, by path. Never raises."""
        await self._drop_old()
        candidates = [one for one in self._all if self._may_go_alone(one) and self._goes_in_s(one) == 0]
        self._is_flushing = False
        return await self._gather(candidates, frozenset(), _VAIN_LOOKS_ALONE)

    async def went(self, outcomes: Mapping[str, PublishResult | EntryFailed], *, alone: bool) -> None:
        """What became of documents that were handed out; those that are not among `outcomes` wait on."""
        handed_out, self._under_way = self._under_way, {}
        tried = {path: outcome for path, outcome in outcomes.items() if path in handed_out and not _is_untried(outcome)}
        for path, outcome in tried.items():
            one, keys = handed_out[path]
            if isinstance(outcome, EntryFailed):
                await self._failed(one, path, outcome)
                continue
            self._on_told()
            self._turns.taken(one)
            one.told |= keys
            one.went_alone = one.went_alone or alone
            self._metrics.manifests_published.labels(self._remote).inc()
            log.info("%s to %s: %s", path, self._remote, outcome.value)
            await (self._forget(one) if self._is_told(one) else self._write(one))
        self._note_load()
        if alone:
            self._next_alone_s = self._clock() + _GAP_S
        if not all(isinstance(outcome, EntryFailed) for outcome in tried.values()):
            self._retry.succeeded()
        elif tried:
            self._retry.failed()

    def postponed(self, error: RemoteUnavailable) -> None:
        """The remote could not take what was to go without entries: later, and smaller if that may be to blame."""
        handed_out, self._under_way = self._under_way, {}
        if error.may_be_the_content:
            for one, _ in handed_out.values():
                self._turns.set_back(one)
        self._retry.failed(error.retry_after_s)

    def _may_go(self, one: Pending) -> bool:
        if not self._is_public:
            return self._is_public is False
        return self._allow_public and (self._allow_private or self._is_open(one))

    def _may_go_alone(self, one: Pending) -> bool:
        may = one.has_ended and not one.went_alone and self._may_go(one)
        return may and any(self._holds(name) and name.key not in one.told for name in _names(one))

    def _due_in_s(self, one: Pending) -> float:
        """Until it goes, is worth a look, or is dropped."""
        if not self._may_go(one):
            return _LOOK_S
        return min(self._goes_in_s(one), max(0.0, KEEP_S - self._age_s(one)))

    def _goes_in_s(self, one: Pending) -> float:
        if not self._may_go_alone(one):
            return _LOOK_S
        rest_s = max(self._retry.wait_s, self._turns.wait_s(one))
        if self._is_flushing:
            return rest_s
        delay_s = self._quiet_s if all(self._holds(name) for name in _names(one)) else self._max_delay_s
        due_s = max(one.changed_s + delay_s, self._next_alone_s)
        return max(0.0, due_s - self._clock(), rest_s)

    def _age_s(self, one: Pending) -> float:
        return self._clock() - one.changed_s

    async def _drop_old(self) -> None:
        """Whatever kept it here; what is held back goes when its model is public, however late."""
        for one in [one for one in self._all if self._may_go(one) and self._age_s(one) >= KEEP_S]:
            log.info("%s was never told all of %s: it is too old", self._remote, manifests.path_of(one.manifest))
            await self._forget(one)

    async def _gather(
        self, candidates: Collection[Pending], names: frozenset[ModuleName], most_vain_looks: int
    ) -> dict[str, bytes]:
        self._under_way = {}
        found: dict[str, bytes] = {}
        company: list[Pending] = []
        for one in self._turns.in_order(candidates):
            if self._turns.wait_s(one) > 0:
                continue
            if most_vain_looks == 0 or not self._turns.may_join(company, one):
                break
            try:
                manifest = await self._worth_telling(one, names)
            except _NobodyKnows:
                self._turns.looked_in_vain(one)
                most_vain_looks -= 1
                continue
            if manifest is not None:
                company.append(one)
                path, content = await asyncio.to_thread(manifests.filed, manifest)
                found[path] = content
                self._under_way[path] = (one, frozenset(module.key for module in manifest.modules))
        return found

    async def _worth_telling(self, one: Pending, names: frozenset[ModuleName]) -> Manifest | None:
        """What the remote has of a run's modules by now, where that is news; None where it is none."""
        namespace = one.manifest.namespace
        here = tuple(
            module
            for module in one.manifest.modules
            if self._holds(name := ModuleName(namespace, module.key)) or name in names
        )
        if all(module.key in one.told for module in here):
            if one.has_ended and one.told and self._age_s(one) > _REST_S:
                await self._forget(one)  # what is left will hardly come: it is on another remote
            return None
        known = await self._known(one.manifest)
        if known is None:
            raise _NobodyKnows
        self._turns.looked(one)
        one.told |= known
        news = sum(module.key not in one.told for module in here)
        if self._is_told(one):
            await self._forget(one)
        is_enough = news > 0 if one.has_ended else news >= max(1, len(one.told))
        return replace(one.manifest, modules=here) if is_enough else None

    def _is_told(self, one: Pending) -> bool:
        return one.has_ended and all(module.key in one.told for module in one.manifest.modules)

    async def _failed(self, one: Pending, path: str, failure: EntryFailed) -> None:
        """Only what the remote refuses counts, for trouble passes."""
        log.warning("%s to %s: %s", path, self._remote, failure.reason)
        self._turns.set_back(one)
        one.refusals += failure.permanent
        if one.refusals >= _TRIES:
            self._metrics.manifests_given_up.labels(self._remote, failure.reason).inc()
            await self._forget(one)

    async def _write(self, one: Pending) -> None:
        try:
            await self._book.save(self._remote, one)
        except sqlite3.Error as error:  # a full disk: told all the same, if this life lasts
            log.info("a manifest for %s is not written down: %s", self._remote, error)

    async def _forget(self, one: Pending) -> None:
        self._waiting.pop((one.run, one.manifest.namespace), None)
        self._turns.forget(one, self._all)
        self._note_load()
        try:
            await self._book.forget(self._remote, one)
        except sqlite3.Error as error:
            log.info("a manifest for %s is still written down: %s", self._remote, error)

    def _note_load(self) -> None:
        self._metrics.manifests_waiting.labels(self._remote).set(self._untold)


def _names(one: Pending) -> list[ModuleName]:
    return [ModuleName(one.manifest.namespace, module.key) for module in one.manifest.modules]


def _is_any_of(batch: Collection[ModuleName], one: Pending) -> bool:
    keys = {name.key for name in batch if name.namespace == one.manifest.namespace}
    return any(module.key in keys for module in one.manifest.modules)


def _is_untried(outcome: PublishResult | EntryFailed) -> bool:
    return isinstance(outcome, EntryFailed) and outcome.reason == NOT_TRIED
