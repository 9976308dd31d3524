"""Entries on their way down from a repo.

What every entry has is asked for at once, together with the question what the entry is: fetched alone, an entry costs
two latencies. Until the Hub has said what it is, and it is the entry's turn, no more than a piece of it is held.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from neff import keys
from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.remotes.base import EntryRefused, Fetched, RemoteEntry, RemoteFile, Watcher
from neffd.remotes.hub.blobs import SMALL_BYTES, Blobs, Content, Lead, OpenFile
from neffd.remotes.hub.files import IncomingFile
from neffd.remotes.hub.statements import Statements
from neffd.remotes.provenance import FileDigest
from neffd.slots import Asker, Slots
from neffd.store.root import PART_SUFFIX
from neffd.tasks import Tasks

# Fewer than the client's connections: questions must not wait for contents.
_PARALLEL_FILES = 96
# However many are prefetched, a trainer's do not wait for theirs.
_FILES_KEPT_FREE = 24
# How often those who wait for that hear that something moves.
_TELL_EVERY_S = 0.25
# So many entries at once leave the processors time.
_FEW = 4
# Files asked for before anybody knows what they are; less than half, so that these never keep all others out.
_PARALLEL_BETS = 32
_BETS_KEPT_FREE = 8
# What every entry has, in the order in which it is wanted.
_BETS = (xla.NEFF, "model.hlo_module.pb")


T = TypeVar("T")
Sink = Callable[[], Awaitable[IncomingFile]]
_Transfer = asyncio.Task[tuple[IncomingFile, list[bytes]]]
# Writes what is still in memory, syncs and checks; blocking.
Finish = Callable[[], FileDigest]


class Way(Protocol):
    """How the content of one file is brought."""

    async def __call__(
        self, revision: str, path: str, sink: Sink, progress: Callable[[int], None], asker: Asker
    ) -> tuple[IncomingFile, list[bytes]]:
        """The file, and its last pieces, which are still to be written; `sink` waits until it may be written to.

        `progress` is told of bytes that arrived, and of 0 where something else moves that the file waits for.
        """


class Arrivals:
    """All entries under way from one repo.

    Args:
        describe: what the Hub states of an entry at a revision; None if there is no ready one.
        way: brings one file.
        may_bet: whether the request quota allows to ask for what may not be there.
        tasks: owns the transfers.
        in_thread: runs a blocking call on a worker thread.
        statements: what entries say of themselves.
    """

    def __init__(
        self,
        describe: Callable[[ModuleName, str], Awaitable[RemoteEntry | None]],
        way: Way,
        may_bet: Callable[[], bool],
        tasks: Tasks,
        in_thread: Callable[..., Awaitable[Any]],
        statements: Statements,
    ) -> None:
        self.describe = describe
        self.way = way
        self.may_bet = may_bet
        self.tasks = tasks
        self.in_thread = in_thread
        self.statements = statements
        self.blobs = Blobs()
        self._files = Slots(_PARALLEL_FILES, _FILES_KEPT_FREE)
        self._queued: list[Lead | Watcher] = []
        self._told_at = 0.0
        self.bets = Slots(_PARALLEL_BETS, _BETS_KEPT_FREE)
        self.open: set[ModuleName] = set()

    @property
    def is_calm(self) -> bool:
        """Whether few entries are under way."""
        return len(self.open) <= _FEW

    async def fetch(self, name: ModuleName, revision: str, directory: Path, watcher: Watcher) -> Fetched | None:
        """See `neffd.remotes.base.Remote.fetch`; all files are of `revision`."""
        is_first = name not in self.open
        self.open.add(name)
        arrival = _Arrival(self, name, revision, directory, watcher)
        try:
            return await arrival.run(may_bet=is_first)
        finally:
            if is_first:
                self.open.discard(name)
            await arrival.end()

    @contextlib.asynccontextmanager
    async def place(self, asker: Lead | Watcher) -> AsyncIterator[None]:
        """Wait for room for one file more; whoever waits hears that those before it move."""
        self._queued.append(asker)
        try:
            await self._files.enter(asker)
        finally:
            self._queued.remove(asker)
        try:
            yield
        finally:
            self._files.leave()

    def stir(self) -> None:
        """Something of some file arrived."""
        now = asyncio.get_running_loop().time()
        if self._queued and now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            for asker in self._queued:
                asker.alive()


class _Arrival:
    """One entry."""

    def __init__(self, arrivals: Arrivals, name: ModuleName, revision: str, directory: Path, watcher: Watcher) -> None:
        self._all = arrivals
        self._name = name
        self._revision = revision
        self._directory = directory
        self._watcher = watcher
        self._its_turn = asyncio.Event()
        self._incoming: dict[str, IncomingFile] = {}
        self._leads: dict[str, Lead] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        self._statement = arrivals.statements.of(name, revision, watcher)

    async def run(self, *, may_bet: bool) -> Fetched | None:
        bets = self._bet() if may_bet else {}
        try:
            entry = await self._all.describe(self._name, self._revision)
            if entry is None:
                return None
            statements = self._all.statements
            statements.described(self._statement, self._revision, self._watcher, is_there=entry.has_statement)
            await self._watcher.turn(entry)
        finally:
            self._all.bets.leave(len(bets))
        self._incoming = {file.name: IncomingFile(self._path(file.name), file) for file in entry.files}
        at_hand = self._at_hand(entry)
        for file in bets.keys() & at_hand.keys():
            bets[file].cancel()
        wanted = [file for file in entry.files if file.name not in at_hand]
        obtained = {file.name: self._start(self._obtain(file, bets.get(file.name))) for file in wanted}
        self._its_turn.set()
        written = self._start(self._finish(at_hand if self._all.is_calm else {}))
        await asyncio.wait({written, *obtained.values()}, return_when=asyncio.FIRST_EXCEPTION)
        # Whichever failed says why; if none did, all are done.
        brought = {name: task.result() for name, task in obtained.items() if task.done()}
        digests = await written | {name: done for name, done in brought.items() if isinstance(done, FileDigest)}
        left = {**at_hand, **{name: done for name, done in brought.items() if not isinstance(done, FileDigest)}}
        digests |= await self._finish({name: finish for name, finish in left.items() if name not in digests})
        for lead in self._leads.values():
            await self._share(lead)
        return Fetched(entry, digests, self._statement.compile_s(digests))

    async def end(self) -> None:
        """Give up whatever is still under way, and close the files."""
        self._statement.give_up()
        for lead in self._leads.values():  # first: who is given up while it waits here must leave nobody waiting
            self._all.blobs.settle(lead, None)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._incoming:
            await self._all.in_thread(self._close)

    def _bet(self) -> dict[str, _Transfer]:
        """Ask for the files that are surely there, if there is room for guesses."""
        files = _BETS if keys.ready_mark(self._name.namespace) == xla.DONE else _BETS[:1]
        is_near = self._watcher.nearby(xla.NEFF) is not None
        if is_near or not self._all.may_bet() or not self._all.bets.try_enter(self._watcher, len(files)):
            return {}
        return {file: self._start(self._transfer(file, self._watcher)) for file in files}

    def _at_hand(self, entry: RemoteEntry) -> dict[str, Finish]:
        """The files that need no request: empty ones, and small ones that came lately."""
        finishes: dict[str, Finish] = {}
        for file in entry.files:
            content = b"" if file.size_bytes == 0 else self._all.blobs.kept(file)
            if content is not None:
                self._watcher.moved(len(content))
                finishes[file.name] = partial(self._incoming[file.name].finish, content)
        return finishes

    async def _obtain(self, file: RemoteFile, bet: _Transfer | None) -> Finish | FileDigest:
        """Have the content of one file by the cheapest way: in memory, or written and still to be finished, or done."""
        incoming, blobs = self._incoming[file.name], self._all.blobs
        # What was asked for writes to the file itself, as soon as it may.
        near = self._watcher.nearby(file.name) if bet is None else None
        if near is not None and (digest := await self._all.in_thread(_copy_same, near, incoming)) is not None:
            self._watcher.moved(file.size_bytes)
            assert isinstance(digest, FileDigest)
            return digest
        while (kept := blobs.kept(file)) is None:
            lead, is_ours = blobs.join(file, self._watcher)
            if is_ours:
                self._leads[file.name] = lead
            if is_ours or bet is not None:
                return await self._arrived(file, *await (bet or self._transfer(file.name, lead)))
            content = await lead.follow(self._watcher)
            if content is not None:
                return partial(_finish_with, incoming, content)
        self._watcher.moved(file.size_bytes)
        return partial(incoming.finish, kept)

    async def _transfer(self, file: str, asker: Lead | Watcher) -> tuple[IncomingFile, list[bytes]]:
        async with self._all.place(asker):
            return await self._all.way(
                self._revision, f"{self._name}/{file}", partial(self._sink, file), partial(self._moved, file), asker
            )

    async def _arrived(self, file: RemoteFile, incoming: IncomingFile, pieces: list[bytes]) -> Finish | FileDigest:
        """At once where others wait for it, or will, and where there is little to do: the entry's files are synced side
        by side then. Else together with the whole entry, since a hop is not free.
        """
        lead = self._leads.get(file.name)
        is_small = file.size_bytes <= SMALL_BYTES
        is_shared = lead is not None and (is_small or lead.is_awaited)
        if not is_shared and not self._all.is_calm:
            return partial(incoming.finish, *pieces)
        digests = await self._finish({file.name: partial(incoming.finish, *pieces)})
        if lead is not None and is_shared:
            await self._share(lead, b"".join(pieces) if is_small else None)
        return digests[file.name]

    async def _share(self, lead: Lead, content: Content | None = None) -> None:
        """Hand over what is verified and written, from memory or from the file."""
        if content is None and lead.is_awaited:
            content = await self._all.in_thread(OpenFile, self._path(lead.file.name))
        self._all.blobs.settle(lead, content)

    def _path(self, file: str) -> Path:
        return self._directory / (file + PART_SUFFIX)

    async def _sink(self, file: str) -> IncomingFile:
        await self._its_turn.wait()
        return self._incoming[file]

    def _moved(self, file: str, count: int) -> None:
        asker = self._leads.get(file) or self._watcher
        if count:
            asker.moved(count)
        else:
            asker.alive()
        self._all.stir()

    async def _finish(self, finishes: dict[str, Finish]) -> dict[str, FileDigest]:
        if not finishes:
            return {}
        digests: dict[str, FileDigest] = await self._all.in_thread(
            _finish_all, {file: (finish, self._incoming[file]) for file, finish in finishes.items()}
        )
        for file in finishes:
            del self._incoming[file]
        return digests

    def _close(self) -> None:
        while self._incoming:
            self._incoming.popitem()[1].close()

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._all.tasks.start(work, name=f"get-{self._name.key}", watched=True)
        self._tasks.append(task)
        return task


def _finish_all(finishes: dict[str, tuple[Finish, IncomingFile]]) -> dict[str, FileDigest]:
    digests = {}
    for name, (finish, incoming) in finishes.items():
        digests[name] = finish()
        incoming.close()
    return digests


def _copy_same(path: Path, incoming: IncomingFile) -> FileDigest | None:
    """The digest, if what lies in another cache directory is the same content."""
    try:
        return _finish_with(incoming, OpenFile(path))
    except (OSError, EntryRefused):
        incoming.restart()
        return None


def _finish_with(incoming: IncomingFile, content: Content) -> FileDigest:
    """Write what another one brought."""
    if isinstance(content, bytes):
        return incoming.finish(content)
    for piece in content.pieces():
        incoming.write(piece)
    return incoming.finish()
