"""One remote's picture: which keys it holds, how fresh that is, and whether the remote answers at all.

A positive answer comes from memory. A negative one does too while the remote's version of the namespace is the one that
was listed; else the keys asked meanwhile go to the remote as one question, and a new listing begins behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, TypeAlias, TypeVar

from neff.keys import ModuleName
from neffd.breaker import Breaker, BreakerOpen
from neffd.catalog.namespaces import Namespace, Namespaces
from neffd.catalog.saved import SavedListings
from neffd.metrics import Metrics
from neffd.remotes.base import Remote, RemoteEntry, RemoteUnavailable
from neffd.slices import slices
from neffd.tasks import Tasks, Wake

log = logging.getLogger(__name__)
T = TypeVar("T")
Work: TypeAlias = Callable[[str], Coroutine[Any, Any, None]]

# Who waits 1.75 s in vain asks nothing for a while: before that it must be known that a remote is silent.
LOOK_LIMIT_S = 1.25
# What a worker process has to be started for may take longer.
CHECK_LIMIT_S = 2.5
# A listing may take longer, as long as pages keep coming.
_PAGE_LIMIT_S = 30.0
# Nobody has asked for this long: a picture that nobody looks at need not be fresh.
_IDLE_AFTER_S = 600.0
_IDLE_FACTOR = 10
_SOON_S = 1.0
_NAMESPACES_AT_ONCE = 4


class Catalog:
    """What `remote` holds.

    Args:
        saved: where complete listings survive a restart.
        poll_s: how old a picture may get while somebody asks now and then.
        recheck_s: how old the version may be for a negative answer.
        clock: monotonic seconds.
        reads: whether the remote may be read now; shared with whoever else reads it.
    """

    def __init__(
        self,
        remote: Remote,
        tasks: Tasks,
        metrics: Metrics,
        saved: SavedListings,
        *,
        poll_s: float,
        clock: Callable[[], float],
        recheck_s: float | None = None,
        reads: Breaker | None = None,
    ) -> None:
        self.name = remote.name
        self.reads = reads or Breaker(clock)
        self._remote = remote
        self._tasks = tasks
        self._metrics = metrics
        self._saved = saved
        self._clock = clock
        self._poll_s = poll_s
        self._recheck_s = min(poll_s, 5.0) if recheck_s is None else recheck_s
        self._namespaces = Namespaces(clock)
        self._is_restored = False
        self._wake = Wake()
        self._shared: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._asked: dict[str, set[str]] = {}
        self._asked_at = clock()
        self._said: str | None = None
        self._has_answered = False

    @property
    def trouble(self) -> str | None:
        """Why the remote is not read now."""
        return self.reads.reason

    @property
    def is_available(self) -> bool | None:
        """Whether the remote is read; None where it was not asked yet."""
        return False if self.trouble is not None else self._has_answered or None

    def knows(self, namespace: str, key: str) -> bool:
        """Whether the key was there when we last looked."""
        known = self._namespaces.get(namespace)
        return known is not None and key in known.keys

    def knows_absent(self, namespace: str, key: str) -> bool:
        """Whether a negative answer can be given from memory."""
        known = self._namespaces.get(namespace)
        if known is None or key in known.keys or not self._is_fresh(known):
            return False
        self._asked_at = known.asked_at = self._clock()
        return known.is_complete or key in known.absent

    def version(self, namespace: str) -> str | None:
        """The remote's version of the namespace when it was last looked at; None if it never was."""
        known = self._namespaces.get(namespace)
        return None if known is None else known.current

    async def look(self, namespace: str) -> None:
        """See which version the remote has now, together with everybody who asks meanwhile."""
        await self._together("version", namespace, self._check_version)

    async def ready_to_fetch(self, namespace: str) -> None:
        """Return if content may be had from the remote; raises RemoteUnavailable while it is away."""
        if self.reads.reason is not None:
            await self.look(namespace)  # one for all who come just when it may be tried again

    async def describe(self, name: ModuleName) -> RemoteEntry | None:
        """What the remote states of an entry. Raises RemoteUnavailable."""
        return await self._call(self._remote.describe(name), CHECK_LIMIT_S)

    def namespaces_with(self, key: str) -> list[str]:
        """Every namespace known to hold `key`."""
        return sorted(name for name, known in self._namespaces.items() if key in known.keys)

    def keys_of(self, namespace: str) -> frozenset[str]:
        """What is known to be there."""
        known = self._namespaces.get(namespace)
        return frozenset() if known is None else frozenset(known.keys)

    def keys_starting(self, start: str, most: int) -> list[tuple[str, str]]:
        """Namespace and key of what is known to be there and begins with `start`, at most `most` of them."""
        found = (
            (namespace, key)
            for namespace, known in sorted(self._namespaces.items())
            for key in known.keys
            if key.startswith(start)
        )
        return list(itertools.islice(found, most))

    async def holds(self, namespace: str, key: str) -> bool:
        """Whether the remote holds a ready entry; raises RemoteUnavailable if nobody can say."""
        self._asked_at = self._clock()
        await self._restore()
        with self._namespaces.asked_about(namespace) as known:
            return await self._is_held(known, namespace, key)

    async def _is_held(self, known: Namespace, namespace: str, key: str) -> bool:
        if key in known.keys:
            return True
        if not self._is_fresh(known):
            await self._look_and_ask(namespace, key)
        if not known.is_complete and key not in known.absent:
            self._start_listing(namespace)
            if key not in known.keys:
                await self._ask(namespace, key)
        return key in known.keys

    def learn(self, namespace: str, key: str) -> None:
        """The remote holds this now: it has just confirmed so."""
        known = self._namespaces.of(namespace)
        known.keys.add(key)
        known.absent.discard(key)

    async def confirm(self, namespace: str, keys: Collection[str]) -> frozenset[str]:
        """Which of `keys` the remote itself says it holds; what it denies is not known to be there any more.

        Raises RemoteUnavailable.
        """
        await self._restore()
        known = self._namespaces.get(namespace)
        if known is None:  # and remains so
            return await self._call(self._remote.present(namespace, sorted(keys)), CHECK_LIMIT_S)
        if not self._is_fresh(known):
            await self.look(namespace)
        return await self._present(namespace, keys)

    def forget(self, namespace: str, key: str, version: str | None) -> None:
        """The remote turned out not to hold what we thought, at `version` or later."""
        known = self._namespaces.get(namespace)
        if known is None:
            return
        known.checked_at = None  # the next who asks has it looked at again
        if version is not None and version == known.current:
            known.deny([key])
        else:
            known.keys.discard(key)
            known.listed = None

    async def find(self, keys: Collection[str]) -> set[ModuleName]:
        """The names under which the remote holds bare `keys`; of other namespaces than before nothing is kept.

        Raises RemoteUnavailable.
        """
        in_turn = asyncio.Semaphore(_NAMESPACES_AT_ONCE)

        async def find_in(namespace: str) -> set[ModuleName]:
            async with in_turn:
                return {ModuleName(namespace, key) for key in await self.confirm(namespace, keys)}

        return set[ModuleName]().union(*await asyncio.gather(*map(find_in, await self.namespaces())))

    async def namespaces(self) -> list[str]:
        """The compiler versions that the remote holds entries of. Raises RemoteUnavailable."""
        return await self._call(self._remote.namespaces(), CHECK_LIMIT_S)

    async def refresh(self, namespace: str) -> None:
        """Bring the listing of a namespace that somebody asks about up to date, together with all who ask meanwhile."""
        with self._namespaces.asked_about(namespace):
            await self._refresh(namespace)

    async def _refresh(self, namespace: str) -> None:
        await self.look(namespace)
        if not self._namespaces.of(namespace).is_complete:
            await self._together("listing", namespace, self._list)

    def use(self, namespace: str) -> None:
        """Keep a picture of `namespace` from now on: a cache directory of this host has it."""
        if self._namespaces.use(namespace):
            self._wake.set()

    def expect_questions(self) -> None:
        """A trainer has come: by the time that it asks, the picture should be fresh."""
        self._asked_at = self._clock()
        if not all(self._is_fresh(known) for _, known in self._namespaces.polled()):
            self._wake.set()

    async def keep_fresh(self) -> None:
        """Look at the namespaces in use, again every `poll_s` (seldom while nobody asks), for ever.

        Those that were asked about in the last hours are in use as well; any other is looked at when it is asked about.
        """
        await self._restore()
        while True:
            for namespace, _ in self._namespaces.polled():
                with contextlib.suppress(RemoteUnavailable):
                    await self._refresh(namespace)
            self._namespaces.drop_empty()
            await self._saved.drop(self._remote.name, self._namespaces.dropped())
            await self._wake.wait(self._pause_s())

    def status(self) -> dict[str, Any]:
        """Facts for the status page."""
        return self._namespaces.status()

    async def _restore(self) -> None:
        """Once: what was listed before the last stop."""
        if self._is_restored:
            return
        saved = await self._saved.load(self._remote.name)
        if not self._is_restored:
            self._is_restored = True
            self._namespaces.restore(saved)

    def _is_fresh(self, known: Namespace) -> bool:
        return known.checked_at is not None and self._clock() - known.checked_at < self._recheck_s

    def _pause_s(self) -> float:
        is_idle = self._clock() - self._asked_at > _IDLE_AFTER_S
        pause_s = self._poll_s * (_IDLE_FACTOR if is_idle else 1)
        if self.reads.reason is not None:  # that it is back is worth knowing, whoever asks
            return max(self.reads.retry_s, min(pause_s, _SOON_S))
        # Hundreds of hosts were started together; they must not ask together for ever.
        return pause_s * (0.8 + 0.4 * random.random())

    async def _together(self, what: str, namespace: str, work: Work) -> None:
        """Run `work` once for everybody who needs it now."""
        await asyncio.shield(self._shared_work(what, namespace, work))

    def _shared_work(self, what: str, namespace: str, work: Work) -> asyncio.Task[None]:
        running = self._shared.get((what, namespace))
        if running is not None and not running.done():  # done, its callbacks not: to wait would not even end our turn
            return running
        name = f"catalog-{what}-{self._remote.name}-{namespace}"
        task = self._shared[what, namespace] = self._tasks.start(work(namespace), name=name, watched=True)
        task.add_done_callback(lambda _: self._unshare(what, namespace, task))
        return task

    def _unshare(self, what: str, namespace: str, task: asyncio.Task[None]) -> None:
        if self._shared.get((what, namespace)) is task:
            del self._shared[what, namespace]

    async def _look_and_ask(self, namespace: str, key: str) -> None:
        """See which version there is, and ask for the key meanwhile, at the one of before: a yes is one there too."""
        known, questions = self._namespaces.of(namespace), [self.look(namespace)]
        is_heard = self._has_answered and self.reads.reason is None
        if is_heard and not known.is_complete and key not in known.absent:
            questions.append(self._ask(namespace, key))
        outcomes = await asyncio.gather(*questions, return_exceptions=True)
        failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if failed and key not in known.keys:
            raise failed[0]

    async def _ask(self, namespace: str, key: str) -> None:
        """Ask for one key, together with all that come until the question goes out; one on its way is not the one."""
        self._asked.setdefault(namespace, set()).add(key)
        while key in self._asked.get(namespace, ()):
            await self._question_over(namespace, key)

    async def _question_over(self, namespace: str, key: str) -> None:
        try:
            await self._together("present", namespace, self._ask_present)
        except RemoteUnavailable:
            if self.reads.reason is not None or key not in self._asked.get(namespace, ()):
                raise  # else it was the question before the one that `key` is in

    def _start_listing(self, namespace: str) -> None:
        self._shared_work("listing", namespace, self._list)

    async def _check_version(self, namespace: str) -> None:
        began = self._clock()
        version = await self._call(self._remote.version(namespace), LOOK_LIMIT_S)
        known = self._namespaces.of(namespace)
        if version != known.current:
            known.absent.clear()
        # The picture is as old as the moment before we asked.
        known.current, known.checked_at = version, began

    async def _ask_present(self, namespace: str) -> None:
        await asyncio.sleep(0)  # whoever asks in this turn of the loop is in the same question
        await self._present(namespace, self._asked.pop(namespace, set()))

    async def _present(self, namespace: str, keys: Collection[str]) -> frozenset[str]:
        known = self._namespaces.of(namespace)
        version = known.current
        found = await self._call(self._remote.present(namespace, sorted(keys)), CHECK_LIMIT_S)
        known.keys |= found
        if known.current == version:
            known.deny(set(keys) - found)
        return found

    async def _list(self, namespace: str) -> None:
        known = self._namespaces.of(namespace)
        version, listed, before = known.current, set[str](), set(known.keys)
        pages = self._remote.keys(namespace)
        while True:
            page = await self._call(anext(pages, None), _PAGE_LIMIT_S)
            if page is None:
                break
            for part in slices(page):
                listed.update(part)
                known.keys.update(part)  # usable while it fills; what of it was denied meanwhile does not come again
                await asyncio.sleep(0)
        # What was asked for by itself meanwhile may be newer than the listing. What stays, stays where it is in memory.
        for part in slices(before):
            known.keys.difference_update(key for key in part if key not in listed)
            await asyncio.sleep(0)
        known.listed = version
        if version is not None and self._namespaces.get(namespace) is known:  # else nobody wants to know any more
            await self._saved.save(self._remote.name, namespace, version, listed)

    async def _call(self, question: Awaitable[T], limit_s: float) -> T:
        """Ask the remote, within a limit and not while it is given a rest."""
        try:
            await self._remote.prepare()
        except BaseException:
            _discard(question)
            raise
        try:
            with self.reads.attempt():
                answer = await asyncio.wait_for(question, limit_s)
        except BreakerOpen:
            _discard(question)
            raise
        except RemoteUnavailable as error:
            self._note(error)
            raise
        self._has_answered = True
        if self._said is not None:
            log.info("remote %s answers again", self._remote.name)
            self._said = None
        return answer

    def _note(self, error: RemoteUnavailable) -> None:
        if self.reads.reason is not None:
            self._wake.set()  # to see when it is back, however long the pause was to be
        if self._said != error.reason:
            log.warning("remote %s: %s", self._remote.name, error)
            self._said = error.reason
        self._metrics.remote_failures.labels(self._remote.name, error.reason).inc()


def _discard(question: Awaitable[object]) -> None:
    """A question that is not asked after all must not be reported as forgotten."""
    close = getattr(question, "close", None)
    if close is not None:
        close()
