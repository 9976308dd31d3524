"""Putting entries into a shared directory, where other hosts do so at the same time. Blocking.

An entry appears whole: staged beside, renamed in, ready mark last. No hard links, no locks, no assumption that other
hosts are alive.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from neff import keys
from neffd.layouts import xla
from neffd.remotes import directory_documents, drafts, provenance
from neffd.remotes.base import (
    NOT_TRIED,
    EntryFailed,
    EntryRefused,
    OutgoingEntry,
    PublishResult,
    RemoteUnavailable,
)
from neffd.remotes.provenance import FileDigest, Provenance
from neffd.store import fsops, sharing
from neffd.store.root import PART_SUFFIX

_STAGING = ".neffd-staging"
# A folder without its ready mark that nobody touched for this long was left by a writer that died.
_ABANDONED_S = 300.0
# Reasons by errno: what a directory has for everybody, and what may be one entry's alone, or of its files here.
_OF_THE_DIRECTORY = {
    errno.EROFS: "read-only-file-system",
    errno.ENOSPC: "remote-full",
    errno.EDQUOT: "remote-full",
}
_REASONS = {
    **_OF_THE_DIRECTORY,
    errno.EACCES: "no-write-access",
    errno.EPERM: "no-write-access",
    errno.ENOENT: "no-directory",
    errno.ESTALE: "stale-mount",
}


class DirectoryPublisher:
    """Writes to the shared directory `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sweep_at = time.monotonic()

    def publish(
        self, entries: Sequence[OutgoingEntry], documents: Mapping[str, bytes]
    ) -> list[PublishResult | EntryFailed]:
        """See `neffd.remotes.base.Remote.publish`; raises OSError and RemoteUnavailable where nothing can be put."""
        if time.monotonic() >= self._sweep_at:
            drafts.sweep(self._root, _STAGING)
            self._sweep_at = time.monotonic() + drafts.ABANDONED_S
        outcomes = [self._publish_one(entry) for entry in entries]
        if any(isinstance(outcome, EntryFailed) for outcome in outcomes):
            return outcomes + [EntryFailed(NOT_TRIED, permanent=False)] * len(documents)
        return outcomes + [self._put_document(path, content) for path, content in documents.items()]

    def _put_document(self, path: str, content: bytes) -> PublishResult | EntryFailed:
        """One document; its trouble is its own, since the entries are there."""
        try:
            check_root(self._root)
            return directory_documents.put(self._root, path, content, self._root / _STAGING, self._make_folder)
        except RemoteUnavailable as error:
            return EntryFailed(error.reason, permanent=False)
        except OSError as error:
            return EntryFailed(unavailable(error).reason, permanent=False)

    def _publish_one(self, entry: OutgoingEntry) -> PublishResult | EntryFailed:
        """One entry; where the directory takes others, its trouble is its own and holds nobody up."""
        try:
            return self._publish(entry)
        except OSError as error:
            if error.errno in _OF_THE_DIRECTORY:
                raise
            check_root(self._root)
            fsops.remove_tree(self._new_draft())  # fails too where it is not this entry alone
            return EntryFailed(unavailable(error).reason, permanent=False)

    def _publish(self, entry: OutgoingEntry) -> PublishResult | EntryFailed:
        check_root(self._root)
        namespace = self._root / entry.name.namespace
        target = namespace / entry.name.key
        mark = keys.ready_mark(entry.name.namespace)
        staging = self._root / _STAGING
        self._make_folder(staging)
        self._make_folder(namespace)
        if any(os.path.lexists(path) and not fsops.is_folder(path) for path in (staging, namespace, target)):
            return EntryFailed("not-a-folder")
        if target.exists() and not is_ready(target, mark):
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
            if is_ready(target, mark):
                return PublishResult.ALREADY_THERE
            return EntryFailed("being-written", permanent=False)  # by another host, or one that died: see _ABANDONED_S
        order = xla.publishing_order(entry.name.namespace, list(ours))
        missing = [file for file in order if not (target / file).exists()]
        is_stated = (read_provenance(target) or Provenance({})).files.keys() >= ours.keys()
        if not missing and is_stated:
            return PublishResult.STORED
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
        except PermissionError:
            if not is_ready(target, mark):
                raise
            return PublishResult.ALREADY_THERE  # in a folder that is another user's alone: whole enough to be used
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


def check_root(root: Path) -> None:
    """Raises RemoteUnavailable where the directory is not there, often not mounted."""
    if not root.is_dir():
        raise RemoteUnavailable("no-directory", f"{root} is not there")


def is_ready(folder: Path, mark: str) -> bool:
    """Whether a folder holds an entry: the mark, and a NEFF that is not empty."""
    try:
        os.lstat(folder / mark)
        neff = os.lstat(folder / xla.NEFF)
        return stat.S_ISREG(neff.st_mode) and neff.st_size > 0
    except OSError:
        return False


def read_provenance(folder: Path) -> Provenance | None:
    """What is stated of an entry's files, if that can be read."""
    try:
        return provenance.parse(fsops.read_small(folder / provenance.FILE_NAME, provenance.MAX_BYTES))
    except OSError:
        return None


def unavailable(error: OSError) -> RemoteUnavailable:
    """What a failed access of the directory means."""
    return RemoteUnavailable(_REASONS.get(error.errno or 0, "io-error"), str(error))


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


def _merge(target: Path, ours: Provenance, added: Sequence[str]) -> Provenance:
    """What an entry with our NEFF holds once it has gained `added`: said of the files there, not of ours."""
    old = read_provenance(target) or Provenance({})
    kept = {file: old.files[file] for file in old.files if file in xla.SHARED and (target / file).exists()}
    unstated = {
        file: FileDigest(*fsops.hash_file(target / file))
        for file in ours.files
        if file not in kept and file not in added
    }
    certain = {file: ours.files[file] for file in (xla.NEFF, *added)}
    return Provenance({**kept, **unstated, **certain}, old.compile_s or ours.compile_s, old.made or ours.made)
