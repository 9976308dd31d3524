"""A directory as a remote: a shared mount, laid out like the cache directory itself.

How entries get there is said in `directory_publish`. All file access is in threads of its own, since a shared mount may
hang.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.remotes import directory_documents
from neffd.remotes.base import (
    NO_DOCUMENTS,
    Access,
    Document,
    EntryFailed,
    EntryRefused,
    Fetched,
    OutgoingEntry,
    PublishResult,
    RemoteEntry,
    RemoteFile,
    Watcher,
)
from neffd.remotes.directory_listing import Listing
from neffd.remotes.directory_publish import DirectoryPublisher, check_root, read_provenance, unavailable
from neffd.remotes.provenance import FileDigest
from neffd.store import fsops
from neffd.store.root import PART_SUFFIX
from neffd.threads import whole_pool

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 8


class _LocalDiskError(OSError):
    """A download failed at this host's end, which says nothing about the remote."""


class DirectoryRemote:
    """See `neffd.remotes.base.Remote`. `root` must exist; its owner decides who may write."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self._root = root
        self._threads = whole_pool(_THREADS, f"neffd-remote-{name}")
        self._listing = Listing(root)
        self._publisher = DirectoryPublisher(root)

    async def access(self) -> Access:
        return await self._in_thread(self._access)

    async def version(self, namespace: str) -> str:
        return repr(await self._in_thread(self._version, namespace))

    async def keys(self, namespace: str) -> AsyncIterator[list[str]]:
        yield await self._in_thread(self._keys, namespace)

    async def present(self, namespace: str, keys: Sequence[str]) -> frozenset[str]:
        return await self._in_thread(self._present, namespace, keys)

    async def namespaces(self) -> list[str]:
        return await self._in_thread(self._namespaces)

    async def describe(self, name: ModuleName) -> RemoteEntry | None:
        return await self._in_thread(self._describe, name)

    async def fetch(self, name: ModuleName, directory: Path, watcher: Watcher) -> Fetched | None:
        entry = await self._in_thread(self._describe, name)
        if entry is None:
            return None
        await watcher.turn(entry)
        return Fetched(entry, await self._in_thread(self._download, entry, directory, watcher.moved))

    async def publish(
        self, entries: Sequence[OutgoingEntry], documents: Mapping[str, bytes] = NO_DOCUMENTS
    ) -> list[PublishResult | EntryFailed]:
        return await self._in_thread(self._publisher.publish, entries, documents)

    async def documents(self, folder: str) -> list[Document]:
        return await self._in_thread(self._documents, folder)

    async def read_documents(self, documents: Sequence[Document], max_bytes: int) -> list[bytes | None]:
        return await self._in_thread(directory_documents.read, self._root, documents, max_bytes)

    async def published_with(self, namespace: str, keys: Sequence[str]) -> Mapping[str, str]:
        return {}

    async def prepare(self) -> None:
        return None

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await asyncio.wrap_future(self._threads.submit(work, *args, **kwargs))
        except _LocalDiskError:
            raise
        except OSError as error:
            raise unavailable(error) from error

    def _access(self) -> Access:
        check_root(self._root)
        if os.statvfs(self._root).f_flag & os.ST_RDONLY:
            return Access(can_write=False, public=False, reason="read-only-file-system")
        if not os.access(self._root, os.W_OK | os.X_OK, effective_ids=True):
            return Access(can_write=False, public=False, reason="no-write-access")
        return Access(can_write=True, public=False)

    def _version(self, namespace: str) -> Hashable:
        check_root(self._root)
        return self._listing.version(namespace)

    def _namespaces(self) -> list[str]:
        check_root(self._root)
        return self._listing.namespaces()

    def _keys(self, namespace: str) -> list[str]:
        found = self._listing.keys(namespace)
        if not found:
            check_root(self._root)  # an empty answer is authoritative
        return found

    def _present(self, namespace: str, wanted: Sequence[str]) -> frozenset[str]:
        check_root(self._root)
        return frozenset(key for key in wanted if self._listing.holds(ModuleName(namespace, key)))

    def _describe(self, name: ModuleName) -> RemoteEntry | None:
        check_root(self._root)
        folder = self._root / name.namespace / name.key
        if not self._listing.holds(name):
            return None
        # Read before the listing: a file that comes later is stated later.
        stated = read_provenance(folder)
        files = tuple(
            _as_listed(item.name, item.stat(follow_symlinks=False))
            for item in sorted(os.scandir(folder), key=lambda item: item.name)
            if item.name in xla.SHARED and item.is_file(follow_symlinks=False)
        )
        return RemoteEntry(name, files, provenance=stated)

    def _download(self, entry: RemoteEntry, directory: Path, progress: Callable[[int], None]) -> dict[str, FileDigest]:
        folder = self._root / entry.name.namespace / entry.name.key
        digests: dict[str, FileDigest] = {}
        for file in entry.files:
            target = directory / (file.name + PART_SUFFIX)
            try:
                digests[file.name] = FileDigest(*fsops.copy_hashed(folder / file.name, target, progress))
            except FileNotFoundError:
                raise EntryRefused("changed", f"{file.name} went away") from None
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.EINVAL):
                    raise EntryRefused("not-a-file", f"{file.name} is no regular file") from None
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):  # reading has no such errors
                    raise _LocalDiskError(error.errno, error.strerror, str(target)) from error
                raise
        return digests

    def _documents(self, folder: str) -> list[Document]:
        check_root(self._root)
        return directory_documents.listed(self._root, folder)


def _as_listed(file: str, facts: os.stat_result) -> RemoteFile:
    return RemoteFile(file, facts.st_size, stamp=f"{facts.st_ino} {facts.st_mtime_ns}")
