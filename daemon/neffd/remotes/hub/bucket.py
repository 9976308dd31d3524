"""A storage bucket on the Hub as a remote; its tree is the cache directory's.

A bucket has neither commits nor conditions: `bucket_rule` says how hosts share it all the same. Contents are named by
their Xet hash, so an entry is downloaded as it was described, whatever its paths hold by then. The bucket states no
sha256: `neffd.json` does.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.remotes import provenance
from neffd.remotes.base import (
    BEING_REWRITTEN,
    NO_DOCUMENTS,
    NOT_TRIED,
    STILL_LISTING,
    Access,
    Document,
    EntryFailed,
    Fetched,
    OutgoingEntry,
    PublishResult,
    RemoteEntry,
    RemoteFile,
    RemoteUnavailable,
    Watcher,
)
from neffd.remotes.hub.bucket_documents import BucketDocuments
from neffd.remotes.hub.bucket_download import BucketDownloads
from neffd.remotes.hub.bucket_listings import Listing, Listings
from neffd.remotes.hub.bucket_publish import BucketPublisher
from neffd.remotes.hub.bucket_rule import NAMES, Picture, Stored
from neffd.remotes.hub.files import flaw
from neffd.remotes.hub.together import Together
from neffd.remotes.hub.tokens import TokenSource
from neffd.remotes.hub.workers import HubCallFailed, HubWorker, OnProgress
from neffd.remotes.provenance import FileDigest, Provenance
from neffd.slices import slices
from neffd.tasks import Tasks
from neffd.threads import whole_pool

T = TypeVar("T")

_THREADS = 4
# The Hub answers at most so many a request.
_PATHS_PER_LOOK = 1_000
_ENTRIES_PER_LOOK = _PATHS_PER_LOOK // len(NAMES)
# What is prefetched comes in smaller batches: a rank may come to wait for one of the next.
_ENTRIES_PER_DOWNLOAD, _ENTRIES_AHEAD = 64, 16
# A page, or the next bytes of a transfer, are due within this.
_READ_STALL_S = 10.0
_REMEMBERED = 10_000
# An answer of a worker is one line of bounded length.
_STATEMENTS_BYTES = 4 * provenance.MAX_BYTES
_XET_HASH = re.compile(r"[0-9a-f]{64}")


class HubBucketRemote:
    """See `neffd.remotes.base.Remote`.

    Args:
        endpoint: base URL of the Hub.
        bucket: `org/name`.
        home: folder for the worker processes' own caches.
    """

    def __init__(
        self,
        name: str,
        endpoint: str,
        bucket: str,
        tokens: TokenSource,
        home: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._bucket = bucket
        self._tokens = tokens
        self._clock = clock
        self._scratch = home / "buckets" / name
        # Several, since calls of one process wait for each other: what a rank waits for must not wait for an upload, a
        # listing, or what is prefetched. Each runs only while it is used.
        self._lister = HubWorker(home, endpoint, stall_s=_READ_STALL_S)
        self._reader = HubWorker(home, endpoint, stall_s=_READ_STALL_S)
        self._downloader = HubWorker(home, endpoint, stall_s=_READ_STALL_S)
        self._prefetcher = HubWorker(home, endpoint, stall_s=_READ_STALL_S)
        self._uploader = HubWorker(home, endpoint, is_patient=True)
        self._threads = whole_pool(_THREADS, f"neffd-remote-{name}")
        self._tasks = Tasks()
        self._looks = Together(self._look, self._tasks, _ENTRIES_PER_LOOK)
        self._for_ranks = self._downloads(self._downloader, _ENTRIES_PER_DOWNLOAD)
        self._ahead = self._downloads(self._prefetcher, _ENTRIES_AHEAD)
        self._listings = Listings(self._list, self._scratch, self._tasks, clock)
        self._documents = BucketDocuments(self._call_lister, self._call_uploader, self._scratch)
        self._looks_without_listing = itertools.count()
        self._statements: OrderedDict[str, Provenance | None] = OrderedDict()
        self._doubtful: OrderedDict[str, None] = OrderedDict()

    async def access(self) -> Access:
        found = await self._call(self._uploader, "bucket-access")
        return Access(found["can_write"], found["public"], found["reason"])

    async def version(self, namespace: str) -> str:
        """A digest of the namespace's listing, see `Listings`; while one is made, another text each time."""
        listing = await self._unless_long(namespace)
        return f"{STILL_LISTING}-{next(self._looks_without_listing)}" if listing is None else listing.digest

    async def keys(self, namespace: str) -> AsyncIterator[list[str]]:
        while (listing := await self._unless_long(namespace)) is None:
            yield []  # a sign of life
        for page in slices(listing.keys):
            yield page

    async def present(self, namespace: str, wanted: Sequence[str]) -> frozenset[str]:
        listing = self._listings.at_hand(namespace)
        if listing is not None:
            return listing.keys & frozenset(wanted)
        names = [ModuleName(namespace, key) for key in wanted]
        pictures = await self._pictures(names)
        return frozenset(name.key for name, picture in zip(names, pictures, strict=True) if picture.is_ready(namespace))

    async def namespaces(self) -> list[str]:
        found = await self._call(self._lister, "bucket-namespaces")
        return [str(name) for name in found["namespaces"]]

    async def describe(self, name: ModuleName) -> RemoteEntry | None:
        picture = await self._looks.ask(name)
        if not picture.is_ready(name.namespace):
            return None
        files = {file: stored for file, stored in picture.files.items() if file in xla.SHARED}
        listed = tuple(RemoteFile(file, stored.size_bytes) for file, stored in files.items())
        return RemoteEntry(name, listed, picture.revision, picture.stated)

    async def fetch(self, name: ModuleName, directory: Path, watcher: Watcher) -> Fetched | None:
        entry = await self.describe(name)
        if entry is None:
            return None
        await watcher.turn(entry)
        downloads = self._for_ranks if watcher.is_urgent else self._ahead
        digests = await downloads.get(entry, directory, watcher)
        if not _fits(entry, digests) and _remember(self._doubtful, entry.revision, None):
            # Perhaps a host is about to mend it: only what is still the same next time is refused. Who then compiles it
            # and publishes, mends it too.
            raise RemoteUnavailable(BEING_REWRITTEN, f"{entry.name} is not what its neffd.json says")
        return Fetched(entry, digests)

    async def publish(
        self, entries: Sequence[OutgoingEntry], documents: Mapping[str, bytes] = NO_DOCUMENTS
    ) -> list[PublishResult | EntryFailed]:
        # A copy that was written over goes with the one that was taken after it, if that is here.
        flaws = await self._in_thread(lambda: [flaw(entry) for entry in entries])
        sound = [entry for entry, found in zip(entries, flaws, strict=True) if found is None]
        publisher = BucketPublisher(self._pictures, self._call_uploader, self._clock, random.uniform(1.0, 1.5))
        outcomes = await publisher.publish(sound)
        untold = EntryFailed(NOT_TRIED, permanent=False)
        of_entries = [outcomes.get(entry.name) or found or untold for entry, found in zip(entries, flaws, strict=True)]
        return of_entries + await self._documents.put(documents, of_entries)

    async def documents(self, folder: str) -> list[Document]:
        return await self._documents.listed(folder)

    async def read_documents(self, documents: Sequence[Document], max_bytes: int) -> list[bytes | None]:
        return await self._documents.read(documents, max_bytes)

    async def published_with(self, namespace: str, keys: Sequence[str]) -> Mapping[str, str]:
        return {}

    async def prepare(self) -> None:
        return None

    async def close(self) -> None:
        await self._tasks.stop(timeout_s=1.0)
        workers = (self._lister, self._reader, self._downloader, self._prefetcher, self._uploader)
        await asyncio.gather(*(worker.close() for worker in workers))
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _downloads(self, worker: HubWorker, most: int) -> BucketDownloads:
        async def download(files: list[list[Any]], on_progress: OnProgress) -> None:
            await self._call(worker, "bucket-download", on_progress=on_progress, files=files)

        return BucketDownloads(download, self._in_thread, self._tasks, most=most)

    async def _unless_long(self, namespace: str) -> Listing | None:
        """A fresh listing; None where it takes its time."""
        try:
            return await self._listings.fresh(namespace)
        except RemoteUnavailable as error:
            if error.reason != STILL_LISTING:
                raise
        return None

    async def _list(self, namespace: str, into: Path) -> dict[str, Any]:
        return await self._call(self._lister, "bucket-list", namespace=namespace, into=str(into))

    async def _pictures(self, names: Sequence[ModuleName]) -> list[Picture]:
        pictures: list[Picture] = []
        for start in range(0, len(names), _ENTRIES_PER_LOOK):
            pictures += await self._look(names[start : start + _ENTRIES_PER_LOOK])
        return pictures

    async def _look(self, names: Sequence[ModuleName]) -> list[Picture]:
        """Entries as they are now: one request, and one download of those statements that we have not seen."""
        paths = {f"{name}/{file}": (name, file) for name in names for file in NAMES}
        found = await self._call(self._reader, "bucket-look", paths=list(paths))
        files: dict[ModuleName, dict[str, Stored]] = {name: {} for name in names}
        for path, size_bytes, xet_hash in found["files"]:
            if not _XET_HASH.fullmatch(xet_hash):  # it will name a local file
                raise RemoteUnavailable("bad-answer", "a listed file has no Xet hash")
            if path in paths:
                name, file = paths[path]
                files[name][file] = Stored(int(size_bytes), xet_hash)
        statements = {name: seen[provenance.FILE_NAME] for name, seen in files.items() if provenance.FILE_NAME in seen}
        await self._read_statements(statements)
        return [self._picture(files[name]) for name in names]

    def _picture(self, files: dict[str, Stored]) -> Picture:
        statement = files.get(provenance.FILE_NAME)
        picture = Picture(files, None if statement is None else self._statements.get(statement.xet_hash))
        return replace(picture, was_refused=picture.revision in self._doubtful)

    async def _read_statements(self, stored: dict[ModuleName, Stored]) -> None:
        unread: dict[str, list[Any]] = {
            one.xet_hash: [f"{name}/{provenance.FILE_NAME}", one.size_bytes, one.xet_hash]
            for name, one in stored.items()
            if one.xet_hash not in self._statements and 0 < one.size_bytes <= provenance.MAX_BYTES
        }
        while unread:
            part, size_bytes = [], 0
            while unread and size_bytes < _STATEMENTS_BYTES:
                part.append(unread.popitem()[1])
                size_bytes += part[-1][1]
            found = await self._call(self._reader, "bucket-read", files=part)
            for xet_hash, text in found["texts"].items():
                _remember(self._statements, xet_hash, provenance.parse(text.encode()) if text is not None else None)

    async def _call_lister(self, op: str, **fields: Any) -> dict[str, Any]:
        return await self._call(self._lister, op, **fields)

    async def _call_uploader(self, op: str, **fields: Any) -> dict[str, Any]:
        return await self._call(self._uploader, op, **fields)

    async def _call(
        self, worker: HubWorker, op: str, on_progress: OnProgress = lambda _: None, **fields: Any
    ) -> dict[str, Any]:
        try:
            await self._in_thread(lambda: self._scratch.mkdir(parents=True, exist_ok=True))
        except OSError as error:
            raise RemoteUnavailable("disk", str(error)) from error
        request = {"bucket": self._bucket, "token": self._tokens.get(), "scratch": str(self._scratch), **fields}
        try:
            return await worker.call(op, on_progress, **request)
        except HubCallFailed as error:
            raise _unavailable(error) from error

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)


def _remember(memory: OrderedDict[str, T], key: str, value: T) -> bool:
    """Note a fact, forgetting the oldest when there are too many; whether it is new."""
    is_new = key not in memory
    memory[key] = value
    if len(memory) > _REMEMBERED:
        memory.popitem(last=False)
    return is_new


def _fits(entry: RemoteEntry, digests: dict[str, FileDigest]) -> bool:
    if entry.provenance is None:
        return True
    return all(digests.get(file) == stated for file, stated in entry.provenance.files.items() if file in xla.SHARED)


def _unavailable(error: HubCallFailed) -> RemoteUnavailable:
    """What a failed call means. Every next try looks first at what is there."""
    by_status = {401: "bad-token", 403: "no-access", 404: "entry-gone", 429: "rate-limited"}
    if error.code == "RepoNotFound":
        return RemoteUnavailable("bucket-not-found", str(error))
    if error.status is None or "/buckets/" not in error.path:  # the store's word, which knows neither token nor bucket
        reason = "unreachable" if error.kind == "ConnectionError" else "transfer-failed"
    else:
        reason = "server-error" if error.status >= 500 else by_status.get(error.status, "refused-by-hub")
    return RemoteUnavailable(reason, str(error), error.retry_after_s)
