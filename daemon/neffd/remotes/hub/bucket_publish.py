"""Bringing entries to a bucket: look, write, look again, until the rule says of each what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from neff import keys
from neff.keys import ModuleName
from neffd.remotes import provenance
from neffd.remotes.base import EntryFailed, OutgoingEntry, PublishResult
from neffd.remotes.hub.bucket_rule import Contest, Own, Picture, Wait, Write
from neffd.remotes.provenance import Provenance
from neffd.store.root import PART_SUFFIX

# Who has not come to an end by then tries again with the journal's patience.
_LIMIT_S = 120.0
# A file that the Hub refuses in this many batches is refused for good.
_REFUSALS = 2

Outcome = PublishResult | EntryFailed


class Call(Protocol):
    """One operation of the process that uploads."""

    def __call__(self, op: str, **fields: Any) -> Awaitable[dict[str, Any]]: ...


class BucketPublisher:
    """Publishes one batch.

    Args:
        look: the entries as they are in the bucket now.
        patience: see `Contest`.
    """

    def __init__(
        self,
        look: Callable[[Sequence[ModuleName]], Awaitable[Sequence[Picture]]],
        call: Call,
        clock: Callable[[], float],
        patience: float,
    ) -> None:
        self._look = look
        self._call = call
        self._clock = clock
        self._patience = patience
        self._refusals: dict[ModuleName, int] = {}

    async def publish(self, entries: Sequence[OutgoingEntry]) -> dict[ModuleName, Outcome]:
        """One outcome for each entry. Raises RemoteUnavailable."""
        outgoing = {entry.name: entry for entry in entries}  # of two with one name the later, which holds more
        contests = {
            name: Contest(own, self._patience) for name, own in (await self._own(list(outgoing.values()))).items()
        }
        outcomes: dict[ModuleName, Outcome] = {}
        until_s = self._clock() + _LIMIT_S
        while contests and self._clock() < until_s:
            pictures = await self._look(list(contests))
            now_s = self._clock()
            moves = {
                name: contests[name].next(picture, now_s) for name, picture in zip(contests, pictures, strict=True)
            }
            outcomes |= {name: move for name, move in moves.items() if isinstance(move, PublishResult)}
            writes = {name: move for name, move in moves.items() if isinstance(move, Write)}
            if writes:
                outcomes |= await self._write(outgoing, writes)
            elif waits := [move.seconds for move in moves.values() if isinstance(move, Wait)]:
                await asyncio.sleep(min(waits))
            contests = {name: contest for name, contest in contests.items() if name not in outcomes}
        return outcomes | {name: EntryFailed("being-written", permanent=False) for name in contests}

    async def _own(self, entries: Sequence[OutgoingEntry]) -> dict[ModuleName, Own]:
        files = [(entry, file) for entry in entries for file in (*entry.provenance.files, provenance.FILE_NAME)]
        found = await self._call(
            "bucket-hash", sources=[_source(entry, file, entry.provenance) for entry, file in files]
        )
        hashes: dict[ModuleName, dict[str, str]] = {entry.name: {} for entry in entries}
        for (entry, file), xet_hash in zip(files, found["hashes"], strict=True):
            hashes[entry.name][file] = xet_hash
        return {entry.name: Own(entry.name.namespace, entry.provenance, hashes[entry.name]) for entry in entries}

    async def _write(
        self, outgoing: Mapping[ModuleName, OutgoingEntry], writes: Mapping[ModuleName, Write]
    ) -> dict[ModuleName, Outcome]:
        """Everything but the ready marks, then these; returns what the Hub refuses for good."""
        first: list[Any] = []
        last: list[Any] = []
        delete: list[str] = []
        for name, write in writes.items():
            entry = outgoing[name]
            # The statement after what it speaks of.
            files = (*write.files, provenance.FILE_NAME)
            first += [[f"{name}/{file}", _source(entry, file, write.statement)] for file in files]
            if write.mark:
                mark = keys.ready_mark(name.namespace)
                last.append([f"{name}/{mark}", _source(entry, mark, write.statement)])
            delete += [f"{name}/{file}" for file in write.delete]
        result = await self._call("bucket-write", first=first, delete=delete, last=last)
        refused = [name for name in writes if any(path.startswith(f"{name}/") for path in result["failed"])]
        for name in refused:
            self._refusals[name] = self._refusals.get(name, 0) + 1
        return {name: EntryFailed("refused-by-hub") for name in refused if self._refusals[name] >= _REFUSALS}


def _source(entry: OutgoingEntry, file: str, statement: Provenance) -> str | dict[str, str]:
    if file == provenance.FILE_NAME:
        return {"text": statement.encode().decode()}
    return str(entry.directory / (file + PART_SUFFIX))
