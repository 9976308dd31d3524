"""A directory as a remote: a shared mount, laid out like the cache directory itself.

How entries get there is said in `directory_publish`. All file access is in threads of its own, since a shared mount may
hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from neff import keys
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
from neffd.remotes.directory_publish import DirectoryPublisher, check_root, is_ready, read_provenance, unavailable
from neffd.remotes.provenance import FileDigest
from neffd.store import fsops
from neffd.store.root import PART_SUFFIX
from neffd.threads import whole_pool

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 8
# No file system's clock is coarser.
_TICK_S = 2.0


class _LocalDiskError(OSError):
    """A download failed at this host's end, which says nothing about the remote."""


class DirectoryRemote:
    """See `neffd.remotes.base.Remote`. `root` must exist; its owner decides who may write."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self._root = root
        self._threads = whole_pool(_THREADS, f"neffd-remote-{name}")
        self._ready: dict[str, set[str]] = {}
        self._unready: dict[str, set[str]] = {}
        self._publisher = DirectoryPublisher(root)
        self._stamps: dict[str, tuple[Hashable, float]] = {}

    async def access(self) -> Access:
        return await self._in_thread(self._access)

    async def version(self, namespace: str) -> str:
        return repr(await self._in_thread(self._version, namespace))

    async def keys(self, namespace: str) -> AsyncIterator[list[str]]:
        yield sorted(await self._in_thread(self._keys, namespace))

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
        try:
            facts = (self._root / namespace).stat()
        except FileNotFoundError:
            return None
        stamp = (facts.st_ino, facts.st_mtime_ns, facts.st_nlink)
        now = time.monotonic()
        if self._stamps.get(namespace, (None, 0.0))[0] != stamp:
            self._stamps[namespace] = (stamp, now)
        # Two changes within one tick of the file server's clock look like one: a new stamp is never "unchanged".
        is_young = now - self._stamps[namespace][1] < _TICK_S
        # A ready mark changes its entry's folder, not the namespace.
        mark = keys.ready_mark(namespace)
        finished = [key for key in self._unready.get(namespace, ()) if is_ready(self._root / namespace / key, mark)]
        return (stamp, frozenset(finished), now if is_young else 0.0)

    def _namespaces(self) -> list[str]:
        check_root(self._root)
        return list(self._folders(self._root, keys.is_namespace))

    def _keys(self, namespace: str) -> frozenset[str]:
        present = set(self._folders(self._root / namespace, keys.is_module_key))
        if not present:
            check_root(self._root)  # an empty answer is authoritative
        known = self._ready.get(namespace, set()) & present
        mark = keys.ready_mark(namespace)
        known |= {key for key in present - known if is_ready(self._root / namespace / key, mark)}
        self._ready[namespace], self._unready[namespace] = known, present - known
        return frozenset(known)

    def _present(self, namespace: str, wanted: Sequence[str]) -> frozenset[str]:
        check_root(self._root)
        return frozenset(key for key in wanted if self._holds(ModuleName(namespace, key)))

    def _holds(self, name: ModuleName) -> bool:
        folder = self._root / name.namespace / name.key
        is_inside = fsops.is_folder(folder.parent) and fsops.is_folder(folder)
        return is_inside and is_ready(folder, keys.ready_mark(name.namespace))

    def _describe(self, name: ModuleName) -> RemoteEntry | None:
        check_root(self._root)
        folder = self._root / name.namespace / name.key
        if not self._holds(name):
            self._ready.get(name.namespace, set()).discard(name.key)
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

    @staticmethod
    def _folders(parent: Path, wanted: Callable[[str], bool]) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(parent) as found:
            yield from [item.name for item in found if wanted(item.name) and item.is_dir(follow_symlinks=False)]


def _as_listed(file: str, facts: os.stat_result) -> RemoteFile:
    return RemoteFile(file, facts.st_size, stamp=f"{facts.st_ino} {facts.st_mtime_ns}")
