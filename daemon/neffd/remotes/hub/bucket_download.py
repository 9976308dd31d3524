"""The content of a bucket's entries, by huggingface_hub in a worker process: those asked for together as one batch."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from neffd.layouts import xla
from neffd.remotes.base import RemoteEntry, RemoteUnavailable, Watcher
from neffd.remotes.hub.together import Together
from neffd.remotes.provenance import FileDigest
from neffd.store import fsops
from neffd.store.root import PART_SUFFIX
from neffd.tasks import Tasks


class Download(Protocol):
    """One call of the worker: `[path, size_bytes, xet_hash, target]` each, the most urgent first."""

    def __call__(
        self, files: list[list[Any]], on_progress: Callable[[Sequence[tuple[int, int]]], None]
    ) -> Awaitable[object]:
        """Told on the way: how many bytes of which files arrived; of none where it moves all the same."""


class Transfer:
    """One entry on its way down, and what its watcher was told of it."""

    def __init__(self, entry: RemoteEntry, directory: Path, watcher: Watcher) -> None:
        self.entry = entry
        self.directory = directory
        self._watcher = watcher
        self._told_bytes = 0
        self._came_bytes = 0

    @property
    def is_urgent(self) -> bool:
        """Whether a rank waits for it by now."""
        return self._watcher.is_urgent

    def files(self) -> list[list[Any]]:
        """Its files as the worker is asked for them; what a rank waits for first: the NEFF, then the rest."""
        hashes = json.loads(self.entry.revision)
        return [
            [f"{self.entry.name}/{file.name}", file.size_bytes, hashes[file.name], str(self._target(file.name))]
            for file in sorted(self.entry.files, key=lambda file: file.name != xla.NEFF)
        ]

    def begins(self) -> None:
        """Once more from its first byte."""
        self._came_bytes = 0

    def came(self, count: int) -> None:
        """`count` bytes arrived; those that came before the last try failed are not told twice."""
        self._came_bytes += count
        more_bytes = self._came_bytes - self._told_bytes
        if more_bytes > 0:
            self._told_bytes += more_bytes
            self._watcher.moved(more_bytes)
        else:
            self._watcher.alive()

    def alive(self) -> None:
        """Something moved that it waits for."""
        self._watcher.alive()

    def finish(self) -> dict[str, FileDigest] | OSError:
        """What was written, and safely on disk; an error is this one entry's. Blocking."""
        digests = {}
        try:
            for file in self.entry.files:
                path = self._target(file.name)
                digests[file.name] = FileDigest(*fsops.hash_file(path))
                with open(path, "rb") as written:
                    os.fsync(written.fileno())
        except OSError as error:
            return error
        self.begins()
        self.came(self.entry.size_bytes)
        return digests

    def _target(self, file: str) -> Path:
        return self.directory / (file + PART_SUFFIX)


class BucketDownloads:
    """Downloads one batch at a time, what a rank waits for first.

    Args:
        download: asks the worker; raises RemoteUnavailable.
        in_thread: runs what blocks.
        most: entries in a batch.
    """

    def __init__(
        self, download: Download, in_thread: Callable[..., Awaitable[Any]], tasks: Tasks, *, most: int
    ) -> None:
        self._download = download
        self._in_thread = in_thread
        self._batches = Together(self._bring_all, tasks, most, order=lambda transfer: not transfer.is_urgent)

    async def get(self, entry: RemoteEntry, directory: Path, watcher: Watcher) -> dict[str, FileDigest]:
        """Bring one entry into `directory`; what came is not checked yet. Raises RemoteUnavailable and OSError."""
        return await self._batches.ask(Transfer(entry, directory, watcher))

    async def _bring_all(self, transfers: Sequence[Transfer]) -> Sequence[dict[str, FileDigest] | Exception]:
        """Several entries in one go; where that fails each alone, so that one cannot spoil the others."""
        try:
            await self._bring(transfers)
        except RemoteUnavailable:
            if len(transfers) == 1:
                raise
            return [await self._bring_alone(each) for each in transfers]
        return list(await asyncio.gather(*(self._in_thread(each.finish) for each in transfers)))

    async def _bring_alone(self, transfer: Transfer) -> dict[str, FileDigest] | Exception:
        if not any(transfer is one for one in self._batches.open):
            return RemoteUnavailable("cancelled")  # nobody will see it
        try:
            await self._bring([transfer])
        except RemoteUnavailable as error:
            return error
        finished: dict[str, FileDigest] | OSError = await self._in_thread(transfer.finish)
        return finished

    async def _bring(self, transfers: Sequence[Transfer]) -> None:
        wanted: list[list[Any]] = []
        owners: list[Transfer] = []
        for transfer in transfers:
            transfer.begins()
            files = transfer.files()
            wanted += files
            owners += [transfer] * len(files)

        def moved(grown: Sequence[tuple[int, int]]) -> None:
            for index, count in grown:
                owners[index].came(count)
            of_these = {id(owners[index]) for index, _ in grown}
            for other in self._batches.open:
                if id(other) not in of_these:
                    other.alive()

        await self._download(wanted, moved)
