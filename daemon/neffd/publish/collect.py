"""Finding the ready entries of one cache directory and handing them to the journal.

Three sources feed one list of entries to look at: watchdog's hints, a look every second at entries that are not ready,
and scans (start, overflow, now and then). Every look is a fresh inspection; an event decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from neff import keys
from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.metrics import Metrics
from neffd.publish.batch import Item
from neffd.publish.journal import Journal
from neffd.publish.settle import Settling
from neffd.publish.take import NotTaken, Trust, take
from neffd.publish.watch import Watch
from neffd.store.index import EXISTING, LOCAL, Index, Known
from neffd.store.root import CacheRoot, FileFacts, Inspection
from neffd.store.sharing import CannotShare

log = logging.getLogger(__name__)
_T = TypeVar("_T")

_LOOK_EVERY_S = 0.5
# Up to 2.14 the NEFF is its own mark: one that is shorter than its header says gets this much longer.
_SHORT_NEFF_EXTRA_S = 60.0


@dataclass(frozen=True)
class Audience:
    """For whom entries are: own ones for every read-write remote, fetched ones for those that mirror.

    `existing` says whether own entries from before the first start count.
    """

    remotes: frozenset[str]
    mirrors: frozenset[str]
    existing: bool

    def of(self, known: Known | None, neff: FileFacts) -> frozenset[str]:
        """The remotes that an entry is meant for."""
        if known is None or not known.is_same(neff):
            return self.remotes
        if known.fetched_from is not None:
            return self.mirrors - {known.fetched_from}
        if known.origin == EXISTING and not self.existing:
            return frozenset()
        return self.remotes


@dataclass
class _Scan:
    """What one pass over the directory found."""

    states: dict[ModuleName, xla.State] = field(default_factory=dict)
    ready: list[tuple[ModuleName, FileFacts, frozenset[str]]] = field(default_factory=list)
    unready: list[ModuleName] = field(default_factory=list)


class Collector:
    """Watches one cache directory and journals what was made there."""

    def __init__(
        self,
        root: CacheRoot,
        known: Index,
        journal: Journal,
        metrics: Metrics,
        workers: Executor,
        *,
        audience: Audience,
        trust: Trust,
        settle_s: float,
        scan_s: float,
        on_taken: Callable[[Item, Collection[str]], None],
        on_unlocked: Callable[[], None] = lambda: None,
        on_namespace: Callable[[str], None] = lambda namespace: None,
        on_problem: Callable[[str, str, str], None] = lambda reason, detail, hint: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._index = known
        self._journal = journal
        self._metrics = metrics
        self._workers = workers
        self._audience = audience
        self._trust = trust
        self._scan_s = scan_s
        self._on_taken = on_taken
        self._on_unlocked = on_unlocked
        self._on_namespace = on_namespace
        self._on_problem = on_problem
        self._settling = Settling(settle_s, clock)
        self._known: dict[ModuleName, Known] = {}
        self._given_up: dict[ModuleName, Inspection] = {}
        self._hints: set[ModuleName] = set()
        self._wake = asyncio.Event()
        self._scan_due = "start"
        self._asked: list[asyncio.Future[None]] = []
        self._loop = asyncio.get_running_loop()
        self._watch = Watch(self._on_change, self._on_lost)
        self._states: dict[ModuleName, xla.State] = {}
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        """Watch and collect until cancelled."""
        await self._in_worker(self._watch.start)
        try:
            last_scan_at = 0.0
            while True:
                asked, self._asked = self._asked, []
                if time.monotonic() - last_scan_at >= self._scan_s and not self._scan_due:
                    self._scan_due = "periodic"
                if self._scan_due:
                    await self.scan(self._scan_due)
                    last_scan_at = time.monotonic()
                await self._look_at_all()
                for done in asked:
                    done.set_result(None)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _LOOK_EVERY_S if self._settling.due() else self._scan_s)
                self._wake.clear()
        finally:
            await asyncio.shield(self._in_worker(self._watch.stop))

    @property
    def settling(self) -> int:
        """Ready entries that are not in the journal yet."""
        return self._settling.ready_count

    async def scan_now(self) -> None:
        """Scan, and look at what was found, before this returns."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._asked.append(done)
        self.scan_soon("asked")
        await done

    def scan_soon(self, why: str) -> None:
        """Ask for a scan."""
        self._scan_due = why
        self._wake.set()

    async def scan(self, why: str) -> None:
        """Walk the directory once: the truth that events only hint at."""
        self._scan_due = ""
        self._metrics.scans.labels(why).inc()
        found = await self._in_worker(self._scan)
        self._states = found.states
        self.counts = Counter(state.value for state in found.states.values())
        for namespace in {name.namespace for name in found.states}:
            self._on_namespace(namespace)
        for name, neff, files in found.ready:
            if self._wants(name, neff, files):
                self._settling.saw(name, None, is_ready=False)
        for name in found.unready:
            self._settling.saw(name, None, is_ready=False)
            self._watch.add_entry(self._root.entry(name))

    def _scan(self) -> _Scan:
        self._known = self._index.all_known(self._root.path)
        found = _Scan()
        # Watch before listing: what comes in between is then an event.
        self._watch.add_folder(self._root.path)
        for namespace in self._root.namespaces():
            self._watch.add_folder(self._root.path / namespace)
            for key in self._root.module_keys(namespace):
                self._classify(ModuleName(namespace, key), found)
        if not self._index.has_baseline(self._root.path):
            self._index.baseline_blocking(self._root.path, [(name, neff) for name, neff, _ in found.ready])
            self._known = self._index.all_known(self._root.path)
        return found

    def _classify(self, name: ModuleName, found: _Scan) -> None:
        looks = self._root.inspect(name)
        found.states[name] = looks.state
        if looks.state is xla.State.READY and looks.neff is not None:
            found.ready.append((name, looks.neff, frozenset(looks.files)))
        else:
            found.unready.append(name)

    def _wants(self, name: ModuleName, neff: FileFacts, files: frozenset[str]) -> bool:
        """Whether a ready entry has something that the journal has not seen and some remote should have."""
        known = self._known.get(name)
        if not self._audience.of(known, neff):
            return False
        if known is None or not known.is_same(neff) or not known.was_taken:
            return True
        return known.file_names is None or not files <= known.file_names

    async def _look_at_all(self) -> None:
        hints, self._hints = self._hints, set()
        names = {*hints, *self._settling.due()}
        for name, looks in await self._in_worker(self._inspect_all, names):
            await self._look(name, looks)

    def _inspect_all(self, names: Collection[ModuleName]) -> list[tuple[ModuleName, Inspection]]:
        return [(name, self._root.inspect(name)) for name in names]

    async def _look(self, name: ModuleName, looks: Inspection) -> None:
        self._note_state(name, looks)
        if looks.state is xla.State.EMPTY and not looks.folder_exists:
            return self._settled(name)
        neff = looks.neff if looks.state is xla.State.READY else None
        if neff is None:
            self._watch.add_entry(self._root.entry(name))
            self._settling.saw(name, _fingerprint(looks), is_ready=False)
            return None
        if not self._wants(name, neff, frozenset(looks.files)) or self._given_up.get(name) == looks:
            return self._settled(name)
        extra_s = await self._in_worker(self._extra_settle_s, name, looks)
        if self._settling.saw(name, _fingerprint(looks), is_ready=True, extra_s=extra_s):
            await self._take(name, looks)
        return None

    def _note_state(self, name: ModuleName, looks: Inspection) -> None:
        before = self._states.pop(name, None)
        if before is not None:
            self.counts[before.value] -= 1
        if looks.folder_exists:
            self._states[name] = looks.state
            self.counts[looks.state.value] += 1

    def _settled(self, name: ModuleName) -> None:
        self._settling.drop(name)
        self._watch.drop_entry(self._root.entry(name))

    async def _take(self, name: ModuleName, looks: Inspection) -> None:
        try:
            taken = await self._in_worker(self._take_blocking, name, looks)
        except NotTaken as error:
            self._metrics.not_pushed.labels(error.reason).inc()
            if error.reason in ("untrusted-owner", "failed"):
                log.warning("%s is not pushed: %s", name, error)
                self._give_up(name, looks)
        except CannotShare as error:
            self._metrics.not_pushed.labels("cannot-read").inc()
            self._on_problem("cannot-read", error.detail, error.hint)
            self._give_up(name, looks)
        except OSError as error:  # a full disk, say: looked at again with the next pass
            self._metrics.not_pushed.labels("disk").inc()
            self._on_problem("disk", f"{name}: {error}", "")
        else:
            self._settled(name)
            if taken is not None:
                log.info("%s is in the journal", name)
                self._on_taken(*taken)

    def _take_blocking(self, name: ModuleName, looks: Inspection) -> tuple[Item, frozenset[str]] | None:
        """Take the entry unless the index, which knows what was fetched before it could be seen, says otherwise."""
        assert looks.neff is not None
        known = self._index.known(self._root.path, name)
        if known is not None:
            self._known[name] = known
        if not self._wants(name, looks.neff, frozenset(looks.files)):
            return None
        audience = self._audience.of(known, looks.neff)
        origin = known.origin if known is not None and known.is_same(looks.neff) else LOCAL
        taken = take(self._root, name, looks, self._trust, origin=origin)
        item = self._journal.insert_blocking(taken, audience)
        neff = (taken.neff.inode, taken.neff.mtime_ns, taken.neff.size_bytes)
        self._known[name] = Known(origin, neff, frozenset(taken.provenance.files), was_taken=True)
        return item, audience

    def _give_up(self, name: ModuleName, looks: Inspection) -> None:
        """Until it looks different: asking again every half second would mend nothing."""
        self._given_up[name] = looks
        self._settled(name)

    def _extra_settle_s(self, name: ModuleName, looks: Inspection) -> float:
        if keys.ready_mark(name.namespace) != xla.NEFF or looks.neff is None:
            return 0.0
        try:
            with open(self._root.entry(name) / xla.NEFF, "rb") as reader:
                header = xla.neff_header(reader.read(xla.NEFF_HEADER_BYTES))
        except OSError:
            return 0.0
        return _SHORT_NEFF_EXTRA_S if header is not None and looks.neff.size_bytes < header.file_bytes else 0.0

    def _on_change(self, path: Path) -> None:
        """On a watchdog thread: hand the hint over to the loop."""
        with contextlib.suppress(RuntimeError):  # the loop has ended; so have we
            self._loop.call_soon_threadsafe(self._note_change, path)

    def _on_lost(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._note_lost)

    def _note_lost(self) -> None:
        self.scan_soon("overflow")

    def _note_change(self, path: Path) -> None:
        try:
            parts = path.relative_to(self._root.path).parts
        except ValueError:
            return
        if len(parts) == 1 and keys.is_namespace(parts[0]):
            # A namespace came or went; entries may be in it already.
            self._watch.forget_folder(path)
            self._scan_due = "new-namespace"
        elif len(parts) >= 2 and keys.is_namespace(parts[0]) and keys.is_module_key(parts[1]):
            self._hints.add(ModuleName(parts[0], parts[1]))
            if parts[-1].endswith(xla.LOCK_SUFFIX):
                self._on_unlocked()
        else:
            return
        self._wake.set()

    async def _in_worker(self, work: Callable[..., _T], *args: object) -> _T:
        return await self._loop.run_in_executor(self._workers, work, *args)


def _fingerprint(looks: Inspection) -> tuple[object, ...]:
    return (looks.state, tuple(sorted(looks.files.items())))
