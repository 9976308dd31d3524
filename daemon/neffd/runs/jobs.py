"""The runs of this host: who belongs to which, what they use, what is brought for them, what remotes are told."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from neff.keys import ModuleName, is_namespace
from neff.protocol import Message
from neffd.fetch.flight import READY_HERE, Answer
from neffd.limits import RUNS, Limits
from neffd.metrics import Metrics
from neffd.runs import places as directories
from neffd.runs import plans, recorder
from neffd.runs.book import Book, manifests_of
from neffd.runs.budget import Budget
from neffd.runs.completing import complete
from neffd.runs.identity import PRIVATE, Identity, ancestors, identify, model_id
from neffd.runs.interfaces import Client, Library, Place
from neffd.runs.manifests import Manifest, UsedModule
from neffd.runs.owners import Owners
from neffd.runs.pins import Pins
from neffd.runs.plans import Expected
from neffd.runs.prefetching import Prefetcher
from neffd.runs.recorder import Recorder, Run
from neffd.runs.siblings import Siblings, Source
from neffd.store.database import Database
from neffd.store.index import Index
from neffd.tasks import Tasks, Wake

log = logging.getLogger(__name__)

_WRITE_EVERY_S = 1.0
_LOOK_EVERY_S = 30.0
_SHOWN_RUNS = 20
_ANSWER_S = 0.5  # less than a launcher waits for what became of its run
# Where nobody says for which compiler, those used last are looked at.
_NAMESPACES = 3
# Why others are not told of a run.
UNTRUSTED = "untrusted-owner"


class Jobs:
    """Knows the runs of this host.

    Args:
        places: the cache directories.
        holds: whether a remote that answers is known to hold a module.
        namespaces: the compiler versions on remotes, newest first; and the remotes that did not say.
        refresh: looks what remotes hold of compiler versions.
        library: manifests on remotes.
        sources: the remotes; changes in place.
        owners: whose graphs modules are; filled here.
        prefetch: whether what a run is going to need is fetched when it begins.
        most_bytes: how much may be fetched for one run because of one kind of guess.
        recent_s: how long after a run's end what it used is not evicted.
        limits: what one user may take of all this.
        on_brought: see `neffd.runs.prefetching.Prefetcher`.
        on_expected: told of modules that a run is going to need how many seconds compiling them took elsewhere.
    """

    def __init__(
        self,
        database: Database,
        index: Index,
        metrics: Metrics,
        tasks: Tasks,
        workers: Executor,
        *,
        places: Callable[[], Sequence[Place]],
        holds: Callable[[ModuleName], bool],
        namespaces: Callable[[], Awaitable[tuple[list[str], list[str]]]],
        refresh: Callable[[Collection[str]], Awaitable[object]],
        library: Library,
        sources: Sequence[Source],
        prefetch: bool,
        most_bytes: int,
        owners: Owners | None = None,
        recent_s: float = 0.0,
        limits: Limits | None = None,
        on_brought: Callable[[str, ModuleName, str], None] = lambda root, name, remote: None,
        on_expected: Callable[[Mapping[ModuleName, float]], None] = lambda seconds: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._index = index
        self._metrics = metrics
        self._tasks = tasks
        self._workers = workers
        self._places = places
        self._holds = holds
        self._namespaces = namespaces
        self._refresh = refresh
        self._library = library
        self._sources = sources
        self._prefetch = prefetch
        self._clock = clock
        self.limits = limits or Limits(metrics, clock)
        self._recorder = Recorder(clock, wall, self.limits.met)
        self._pins = Pins(recent_s, clock, self.limits.met)
        self._book = Book(database, wall)
        self._budget = Budget(most_bytes, on_trial={plans.SAME_COMMIT})
        self._siblings = Siblings(clock)
        self._prefetcher = Prefetcher(tasks, metrics, self._budget, clock, on_brought)
        self._owners = owners or Owners()
        self._on_expected = on_expected
        self._of_session: dict[int, tuple[int, Run]] = {}
        self._ended: list[Run] = []
        self._late: list[Run] = []
        self._saved_before_s = 0.0
        self._writing = asyncio.Lock()
        self._wake = Wake()

    async def load(self) -> None:
        """Go on where an earlier life of the daemon was stopped."""
        with contextlib.suppress(sqlite3.Error):  # a full disk: runs are recorded as far as it lets us
            self._owners.load(await self._book.owners())
            resumed = await self._book.open_runs(self._clock())
            self._saved_before_s = await self._book.saved_s(without=resumed)
            self._recorder.resume(resumed)
            await self._book.end_others()

    def pinned(self) -> set[ModuleName]:
        """What runs use that go on, or did until just now, and what was brought for them."""
        return self._prefetcher.awaited() | self._pins.names(self._recorder.recent(self._pins.recent_s))

    def greeted(self, session: Client, hello: Message) -> None:
        """A client has greeted: it belongs to a run, or to none."""
        self._left(id(session))
        identity = identify(hello, session.pid, session.uid)
        if identity is None:
            return
        identity = dataclasses.replace(identity, uid=self._whose(identity, session.pid))
        if not self._recorder.may_join(identity):
            return self.limits.met(RUNS, identity.uid)
        run, _ = self._recorder.joined(identity, id(session))
        self._of_session[id(session)] = session.pid, run
        self._owners.note(run.changed, run.identity)
        session.on_close(functools.partial(self._left, id(session)), key="run")
        is_wanted = self._prefetch and identity.run_key and identity.wants_prefetch and not run.is_begun
        if is_wanted and session.root is not None:  # one that is none of ours would never be looked into
            run.is_begun = True
            if self.limits.may_guess(identity.uid):
                self._tasks.start(self._begin(run, session.root), name=f"begin-{identity.name}")
        return None

    def is_of(self, session: Client, run_key: str) -> bool:
        """Whether a client belongs to a run of this key: then what that needs is brought, or is not to be."""
        run = self._run_of(session)
        return run is not None and run.identity.run_key == run_key

    def told(self, session: Client, name: ModuleName, answer: Answer) -> None:
        """A process of a run was given the final answer to a question."""
        run = self._run_of(session)
        if run is None or session.root is None or answer.reason == "bad-name":
            return
        how = recorder.LOCAL if answer == READY_HERE else recorder.FETCHED if answer.ready else recorder.ASKED
        self._note(run, session.root, name, how, answer)

    def used(self, session: Client, names: Sequence[ModuleName]) -> None:
        """A process of a run found these in its cache directory, in this order."""
        run = self._run_of(session)
        if run is not None and session.root is not None:
            for name in names:
                self._note(run, session.root, name, recorder.LOCAL, READY_HERE)

    def compiled(self, root: str, name: ModuleName, seconds: float | None, pid: int = 0) -> None:
        """The process `pid` of this host has compiled a module, whether it had asked for it or not."""
        seconds = None if seconds is None else round(seconds, 3)
        self._recorder.compiled(root, name, seconds)
        runs = {id(run): run for of, run in self._of_session.values() if pid and of == pid}.values()
        if not any(name in run.modules for run in runs):
            for run in runs:
                self._recorder.used(run, root, name, recorder.COMPILED, compile_s=seconds)
                self._owners.note((name,), run.identity)
        self._wake.set()

    async def run_ended(self, session: Client) -> Message:
        """The client's run is over; returns what became of it."""
        run = self._run_of(session)
        if run is None:
            return {"modules": 0, "names": []}
        if not run.has_ended:
            self._end(run)
            telling = self._tasks.start(self._offer(run), name=f"offer-{run.identity.name}")
            await asyncio.wait({telling}, timeout=_ANSWER_S)  # of much it takes long, and goes on without who asks
        names = sorted(run.modules, key=lambda name: run.modules[name].position)
        return {**run.counts(), "names": [str(name) for name in names]}

    async def expected(self, identity: Identity) -> Expected:
        """What a run is going to need, as far as earlier ones tell."""
        namespaces, unasked = await self._of(identity)
        found = await asyncio.gather(
            *(self._library.find(namespace, identity.run_key, identity.ingredients) for namespace in namespaces)
        )
        same, others = await self._known_here(identity)
        expected: Expected = await self._in_worker(plans.put_together, same, others, found, identity.ingredients)
        self._on_expected({name: one.compile_s for name, one in expected.modules.items() if one.compile_s is not None})
        return dataclasses.replace(expected, away=tuple(dict.fromkeys((*unasked, *expected.away))))

    async def plan(self, identity: Identity, root: str | None = None) -> Message:
        """Will it compile in the cache directory `root`, or where most of it is? See `neffd.runs.plans`."""
        expected = await self.expected(identity)
        await self._refresh({name.namespace for name in expected.modules})
        local = await self._in_worker(directories.ready_in_one, self._places(), root, expected.modules)
        # Who told of a run a moment ago may be away by now, with all that it holds.
        troubled = [source.remote.name for source in self._sources if source.catalog.trouble is not None]
        return plans.plan(
            dataclasses.replace(expected, away=tuple(dict.fromkeys((*expected.away, *troubled)))),
            is_local=local.__contains__,
            is_remote=self._holds,
            bytes_per_s=self._prefetcher.bytes_per_s,
        )

    async def run(self) -> None:
        """Until cancelled: write down what was noted, tell of it, end what has ended."""
        looked_s = self._clock()
        while True:
            await self._wake.wait(_LOOK_EVERY_S)
            await asyncio.sleep(_WRITE_EVERY_S)
            await self.write()
            late, self._late = self._late, []
            for run in self._recorder.grown() + late:
                await self._offer(run)
            if self._clock() - looked_s >= _LOOK_EVERY_S or len(self._recorder) > recorder.MAX_RUNS:
                looked_s = self._clock()
                for run in self._recorder.over():
                    self._end(run)
                    self._late.append(run)
                self._recorder.note_presence()

    async def write(self) -> None:
        """Write down what was noted; what a full disk refuses is tried again."""
        async with self._writing:
            ended, self._ended = self._ended, []
            changed = [*dict.fromkeys([run for run in self._recorder if run.changed or not run.is_written] + ended)]
            if not changed:
                return
            try:
                await self._book.write(changed)
            except sqlite3.Error as error:
                log.info("runs are not written down: %s", error)
                self._ended = (ended + self._ended)[-recorder.MAX_RUNS :]

    def status(self) -> dict[str, Any]:
        """The part of the status document."""
        live = sorted(self._recorder, key=lambda run: run.began_at)[-_SHOWN_RUNS:]
        return {
            "saved_s": round(self._saved_before_s + sum(run.saved_s for run in self._recorder), 1),
            "running": [_shown(run) for run in live],
            "prefetch": self._budget.status(),
        }

    def _left(self, number: int) -> None:
        _, run = self._of_session.pop(number, (0, None))
        if run is not None:
            self._recorder.left(run, number)

    def _whose(self, identity: Identity, pid: int) -> int:
        """The user whose run a process belongs to: its own, or who has started it from a process of that run.

        By sudo or setpriv, or from a container's root: what cannot be said, only done.
        """
        others = self._recorder.of_others(identity)
        users = {self._of_session[number][0]: run.identity.uid for run in others for number in run.connections}
        found = (users[ancestor] for ancestor in (ancestors(pid) if users else ()) if ancestor in users)
        return next(found, identity.uid)

    def _run_of(self, session: Client) -> Run | None:
        return self._of_session.get(id(session), (0, None))[1]

    def _note(self, run: Run, root: str, name: ModuleName, how: str, answer: Answer) -> None:
        brought = self._prefetcher.used(root, name, was_there=how == recorder.LOCAL)
        compile_s, remote, size_bytes = answer.compile_s, answer.source, None
        if brought is not None:
            how, remote = recorder.PREFETCHED, brought.remote
            compile_s, size_bytes = brought.compile_s, brought.size_bytes
        if not self._recorder.used(run, root, name, how, size_bytes=size_bytes, compile_s=compile_s):
            return
        if how == recorder.FETCHED and run.is_expected is False:
            self._tasks.start(self._follow(run, root, name, remote), name=f"siblings-{name.key}")
        run.last_fetched = (root, name, remote) if how == recorder.FETCHED else run.last_fetched
        self._owners.note((name,), run.identity)
        if run.has_ended:  # its launcher was faster than this rank
            run.is_untold = True
            self._ended += [] if run in self._ended else [run]
            self._late += [] if run in self._late else [run]
        if how in (recorder.FETCHED, recorder.PREFETCHED) and compile_s is not None:
            self._metrics.saved_s.labels(remote).inc(compile_s)
        self._wake.set()

    async def _begin(self, run: Run, root: str) -> None:
        """Bring what the run is going to need."""
        place = next((place for place in self._places() if root == str(place.root.path)), None)
        if place is None:
            return
        expected = await self.expected(run.identity)
        run.is_expected = bool(expected.modules)
        if not run.is_expected and run.last_fetched is not None:
            await self._follow(run, *run.last_fetched)
        if expected.is_likely:
            self._bring(run, place, expected.modules, expected.sure)

    async def _follow(self, run: Run, root: str, name: ModuleName, remote: str) -> None:
        """Nothing tells what the run will need: what came to the remote together with `name` may be it."""
        place = next((place for place in self._places() if root == str(place.root.path)), None)
        source = next((source for source in self._sources if source.remote.name == remote), None)
        if name in run.followed or place is None or source is None:
            return
        siblings = [other for other in await self._siblings.of(source, name) if other not in run.followed]
        run.followed.update(siblings, (name,))
        modules = {other: plans.nothing_known(other) for other in siblings if other not in run.modules}
        if modules:
            self._bring(run, place, modules, plans.SAME_COMMIT)

    def _bring(self, run: Run, place: Place, modules: Mapping[ModuleName, UsedModule], source: str) -> None:
        """Have modules fetched, as many as fit beside what runs use."""
        resolve = functools.partial(place.fetcher.resolve, urgent=False)
        room_bytes = place.space.room_bytes(self.pinned())
        self._prefetcher.start(run, str(place.root.path), modules, source, resolve, room_bytes)

    def _end(self, run: Run) -> None:
        self._recorder.end(run)
        run.is_untold = True
        self._prefetcher.ended(run)
        self._saved_before_s += run.saved_s
        self._ended.append(run)
        self._pins.ended(run)
        self._wake.set()

    async def _offer(self, run: Run) -> None:
        """Have remotes told which modules the run used, of those that are there; where its user is trusted."""
        count, has_ended = len(run.modules), run.has_ended
        run.offered, run.offered_s = count, self._clock()
        try:
            if run.identity.run_key and run.modules:
                await self._offer_each(run)
        except (OSError, sqlite3.Error) as error:  # of a disk that is full or away: what is lost is a manifest
            log.warning("what a run used is not told: %s", error)
        if has_ended and count == len(run.modules):
            run.is_untold = run.is_written = False
            self._ended.append(run)
            self._wake.set()

    async def _offer_each(self, run: Run) -> None:
        roots = await self._in_worker(directories.trusting, self._places(), run.identity.uid)
        self._withhold(run, None if roots else UNTRUSTED)
        for manifest in manifests_of(run) if roots else ():
            whole = await self._in_worker(complete, manifest, run.modules, roots, self._index)
            if whole.modules:
                is_private = run.identity.owner == PRIVATE
                await self._library.offer(whole, private=is_private, run=run.identity.name, has_ended=run.has_ended)

    def _withhold(self, run: Run, reason: str | None) -> None:
        if reason is not None and run.withheld is None:
            log.info("what run %s of uid %d used is not told: %s", run.identity.run_key, run.identity.uid, reason)
        run.withheld = reason

    async def _known_here(self, identity: Identity) -> tuple[list[Manifest], list[Manifest]]:
        """What runs of the same key used on this host; where there is none, what those of the same model did."""
        same, others = list[Manifest](), list[Manifest]()
        with contextlib.suppress(sqlite3.Error):
            await self.write()
            same = await self._book.with_key(identity.run_key) if identity.run_key else []
            others = [] if same else await self._book.of_model(identity.ingredients)
        return same, others

    async def _of(self, identity: Identity) -> tuple[list[str], list[str]]:
        """The compiler versions that a run may use, and the remotes that did not say which they have."""
        compiler = identity.ingredients.get("compiler")
        if isinstance(compiler, str) and is_namespace(f"neuronxcc-{compiler}"):
            return [f"neuronxcc-{compiler}"], []
        roots = [place.root for place in self._places()]
        latest: list[str] = await self._in_worker(directories.latest_namespaces, roots, _NAMESPACES)
        if latest and identity.ingredients:
            return latest, []
        there, unasked = await self._namespaces()  # a key alone may be that of a compiler which nobody used here yet
        return list(dict.fromkeys([*latest, *there[:_NAMESPACES]])), unasked

    async def _in_worker(self, work: Callable[..., Any], *args: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work, *args)


def _shown(run: Run) -> dict[str, Any]:
    return {
        "instance": run.identity.instance,
        "uid": run.identity.uid,
        "key": run.identity.run_key,
        "model": model_id(run.identity.ingredients),
        "began_at": round(run.began_at, 1),
        "processes": len(run.connections),
        "withheld": run.withheld,
        **run.counts(),
    }
