"""A directory as a remote: a shared mount, laid out like the cache directory itself.

An entry appears whole: staged beside, renamed in, ready mark last. No hard links, no locks, no assumption that other
hosts are alive. All file access is in threads of its own, since a shared mount may hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from neff import keys
from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.remotes import directory_documents, drafts, provenance
from neffd.remotes.base import (
    NO_DOCUMENTS,
    NOT_TRIED,
    Access,
    Document,
    EntryFailed,
    EntryRefused,
    Fetched,
    OutgoingEntry,
    PublishResult,
    RemoteEntry,
    RemoteFile,
    RemoteUnavailable,
    Watcher,
)
from neffd.remotes.provenance import FileDigest, Provenance
from neffd.store import fsops, sharing
from neffd.store.root import PART_SUFFIX
from neffd.threads import whole_pool

P = ParamSpec("P")
T = TypeVar("T")

_STAGING = ".neffd-staging"
_THREADS = 8
# A folder without its ready mark that nobody touched for this long was left by a writer that died.
_ABANDONED_S = 300.0
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
        self._sweep_at = time.monotonic()
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
        return await self._in_thread(self._publish_all, entries, documents)

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
            raise _unavailable(error) from error

    def _access(self) -> Access:
        self._check_root()
        if os.statvfs(self._root).f_flag & os.ST_RDONLY:
            return Access(can_write=False, public=False, reason="read-only-file-system")
        if not os.access(self._root, os.W_OK | os.X_OK, effective_ids=True):
            return Access(can_write=False, public=False, reason="no-write-access")
        return Access(can_write=True, public=False)

    def _check_root(self) -> None:
        if not self._root.is_dir():
            raise RemoteUnavailable("no-directory", f"{self._root} is not there")

    def _version(self, namespace: str) -> Hashable:
        self._check_root()
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
        finished = [
            key for key in self._unready.get(namespace, ()) if self._is_ready(self._root / namespace / key, mark)
        ]
        return (stamp, frozenset(finished), now if is_young else 0.0)

    def _namespaces(self) -> list[str]:
        self._check_root()
        return list(self._folders(self._root, keys.is_namespace))

    def _keys(self, namespace: str) -> frozenset[str]:
        present = set(self._folders(self._root / namespace, keys.is_module_key))
        if not present:
            self._check_root()  # an empty answer is authoritative
        known = self._ready.get(namespace, set()) & present
        mark = keys.ready_mark(namespace)
        known |= {key for key in present - known if self._is_ready(self._root / namespace / key, mark)}
        self._ready[namespace], self._unready[namespace] = known, present - known
        return frozenset(known)

    def _present(self, namespace: str, wanted: Sequence[str]) -> frozenset[str]:
        self._check_root()
        return frozenset(key for key in wanted if self._holds(ModuleName(namespace, key)))

    def _holds(self, name: ModuleName) -> bool:
        folder = self._root / name.namespace / name.key
        is_inside = fsops.is_folder(folder.parent) and fsops.is_folder(folder)
        return is_inside and self._is_ready(folder, keys.ready_mark(name.namespace))

    def _describe(self, name: ModuleName) -> RemoteEntry | None:
        self._check_root()
        folder = self._root / name.namespace / name.key
        if not self._holds(name):
            self._ready.get(name.namespace, set()).discard(name.key)
            return None
        # Read before the listing: a file that comes later is stated later.
        stated = _read_provenance(folder)
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
        self._check_root()
        return directory_documents.listed(self._root, folder)

    def _publish_all(
        self, entries: Sequence[OutgoingEntry], documents: Mapping[str, bytes]
    ) -> list[PublishResult | EntryFailed]:
        if time.monotonic() >= self._sweep_at:
            drafts.sweep(self._root, _STAGING)
            self._sweep_at = time.monotonic() + drafts.ABANDONED_S
        outcomes = [self._publish(entry) for entry in entries]
        if any(isinstance(outcome, EntryFailed) for outcome in outcomes):
            return outcomes + [EntryFailed(NOT_TRIED, permanent=False)] * len(documents)
        return outcomes + [self._put_document(path, content) for path, content in documents.items()]

    def _put_document(self, path: str, content: bytes) -> PublishResult | EntryFailed:
        """One document; its trouble is its own, since the entries are there."""
        try:
            self._check_root()
            return directory_documents.put(self._root, path, content, self._root / _STAGING, self._make_folder)
        except RemoteUnavailable as error:
            return EntryFailed(error.reason, permanent=False)
        except OSError as error:
            return EntryFailed(_unavailable(error).reason, permanent=False)

    def _publish(self, entry: OutgoingEntry) -> PublishResult | EntryFailed:
        self._check_root()
        namespace = self._root / entry.name.namespace
        target = namespace / entry.name.key
        mark = keys.ready_mark(entry.name.namespace)
        staging = self._root / _STAGING
        self._make_folder(staging)
        self._make_folder(namespace)
        if any(os.path.lexists(path) and not fsops.is_folder(path) for path in (staging, namespace, target)):
            return EntryFailed("not-a-folder")
        if target.exists() and not self._is_ready(target, mark):
            self._clear_abandoned(target)
        if target.exists():
            return self._complete(entry, target, mark)
        return self._publish_new(entry, target, mark)

    def _make_folder(self, folder: Path) -> None:
        """Make a folder at the top that all hosts can write in, whole: one that dies half-way leaves none."""
        if os.path.lexists(folder):
            return
        draft = self._root / f"{_STAGING}-{secrets.token_hex(8)}"
        draft.mkdir()
        try:
            sharing.inherit(draft, self._root)
            with contextlib.suppress(FileExistsError):
                fsops.rename_exclusive(draft, folder)
                fsops.sync_directory(folder.parent)
        finally:
            fsops.remove_tree(draft)

    def _publish_new(self, entry: OutgoingEntry, target: Path, mark: str) -> PublishResult | EntryFailed:
        draft = self._new_draft()
        moved = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        held_back = draft.with_suffix(".mark")
        try:
            for file in entry.provenance.files:
                _copy_checked(entry, file, draft / file)
            fsops.write_synced(draft / provenance.FILE_NAME, entry.provenance.encode())
            sharing.inherit(draft, target.parent)
            (draft / mark).rename(held_back)
            fsops.sync_directory(draft)
            try:
                fsops.rename_exclusive(draft, target)
            except FileExistsError:
                return self._complete(entry, target, mark)
            # Into the folder that we made, whatever has its name by now.
            os.rename(held_back, mark, dst_dir_fd=moved)
            os.fsync(moved)
            fsops.sync_directory(target.parent)
            return PublishResult.STORED
        except EntryRefused as error:
            return EntryFailed(error.reason)
        finally:
            os.close(moved)
            held_back.unlink(missing_ok=True)
            fsops.remove_tree(draft)

    def _new_draft(self) -> Path:
        draft = self._root / _STAGING / secrets.token_hex(8)
        draft.mkdir()
        return draft

    def _complete(self, entry: OutgoingEntry, target: Path, mark: str) -> PublishResult | EntryFailed:
        """The entry is there: with our NEFF it gains what it lacks, else it stays the other host's."""
        ours = entry.provenance.files
        theirs = _neff_digest(target)
        if theirs != ours[xla.NEFF].sha256:
            if self._is_ready(target, mark):
                return PublishResult.ALREADY_THERE
            return EntryFailed("being-written", permanent=False)  # by another host, or one that died: see _ABANDONED_S
        order = xla.publishing_order(entry.name.namespace, list(ours))
        missing = [file for file in order if not (target / file).exists()]
        draft = self._new_draft()
        try:
            for file in missing:
                _copy_checked(entry, file, draft / file)
            merged = _merge(target, entry.provenance, missing)
            fsops.write_synced(draft / provenance.FILE_NAME, merged.encode())
            sharing.inherit(draft, target)
            # A reader may come at any moment: nothing is stated before it is there, and the mark is last.
            late = [mark] if mark in missing else []
            for file in [*(file for file in missing if file != mark), provenance.FILE_NAME, *late]:
                (draft / file).rename(target / file)
            fsops.sync_directory(target)
            return PublishResult.STORED
        except EntryRefused as error:
            return EntryFailed(error.reason)
        finally:
            fsops.remove_tree(draft)

    def _clear_abandoned(self, target: Path) -> None:
        grave = self._new_draft()
        try:
            # Both times are the file server's.
            if grave.stat().st_mtime - target.stat().st_mtime > _ABANDONED_S:
                target.rename(grave)
        except FileNotFoundError:
            pass
        finally:
            fsops.remove_tree(grave)

    @staticmethod
    def _is_ready(folder: Path, mark: str) -> bool:
        try:
            os.lstat(folder / mark)
            neff = os.lstat(folder / xla.NEFF)
            return stat.S_ISREG(neff.st_mode) and neff.st_size > 0
        except OSError:
            return False

    @staticmethod
    def _folders(parent: Path, wanted: Callable[[str], bool]) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(parent) as found:
            yield from [item.name for item in found if wanted(item.name) and item.is_dir(follow_symlinks=False)]


def _as_listed(file: str, facts: os.stat_result) -> RemoteFile:
    return RemoteFile(file, facts.st_size, stamp=f"{facts.st_ino} {facts.st_mtime_ns}")


def _copy_checked(entry: OutgoingEntry, file: str, target: Path) -> None:
    pinned = entry.directory / (file + PART_SUFFIX)
    if not pinned.exists():
        raise EntryRefused("gone-locally", f"{pinned} is not there any more")
    size_bytes, sha256 = fsops.copy_hashed(pinned, target)
    if (size_bytes, sha256) != (entry.provenance.files[file].size_bytes, entry.provenance.files[file].sha256):
        raise EntryRefused("changed-locally", f"{file} is no longer what was taken")


def _neff_digest(folder: Path) -> str | None:
    try:
        return fsops.hash_file(folder / xla.NEFF)[1]
    except OSError:
        return None


def _read_provenance(folder: Path) -> Provenance | None:
    try:
        return provenance.parse(fsops.read_small(folder / provenance.FILE_NAME, provenance.MAX_BYTES))
    except OSError:
        return None


def _merge(target: Path, ours: Provenance, added: Sequence[str]) -> Provenance:
    """What an entry with our NEFF holds once it has gained `added`: said of the files there, not of ours."""
    old = _read_provenance(target) or Provenance({})
    kept = {file: old.files[file] for file in old.files if file in xla.SHARED and (target / file).exists()}
    unstated = {
        file: FileDigest(*fsops.hash_file(target / file))
        for file in ours.files
        if file not in kept and file not in added
    }
    certain = {file: ours.files[file] for file in (xla.NEFF, *added)}
    return Provenance({**kept, **unstated, **certain}, old.compile_s or ours.compile_s, old.made or ours.made)


def _unavailable(error: OSError) -> RemoteUnavailable:
    reasons = {
        errno.EACCES: "no-write-access",
        errno.EPERM: "no-write-access",
        errno.EROFS: "read-only-file-system",
        errno.ENOSPC: "remote-full",
        errno.EDQUOT: "remote-full",
        errno.ENOENT: "no-directory",
        errno.ESTALE: "stale-mount",
    }
    return RemoteUnavailable(reasons.get(error.errno or 0, "io-error"), str(error))
