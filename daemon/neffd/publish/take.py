"""Taking a ready entry for upload: whose it is, its files pinned, its digests read. Blocking, on worker threads."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from neff.keys import ModuleName
from neffd import points
from neffd.layouts import xla
from neffd.publish.journal import Taken
from neffd.remotes.provenance import FileDigest, Provenance
from neffd.store import fsops, sharing
from neffd.store.root import PART_SUFFIX, CacheRoot, FileFacts, Inspection
from neffd.store.sharing import CannotShare


class NotTaken(Exception):
    """An entry that is ready but not ours to push (now).

    Args:
        reason: short kebab-case code: `untrusted-owner`, `failed`, `changing`, `gone`.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


@dataclass(frozen=True)
class Trust:
    """Whose files are pushed with the daemon's token, and of whose runs others are told.

    Anybody else's could put code on every accelerator.
    """

    uids: frozenset[int]
    gids: frozenset[int]

    @classmethod
    def of(cls, root: Path, uids: Collection[int] | None, gids: Collection[int] | None) -> Trust:
        """The configured ids; where none are, the owner of `root` and root, and the daemon's group."""
        return cls(
            frozenset(uids) if uids is not None else frozenset({0, root.stat().st_uid}),
            frozenset(gids) if gids is not None else frozenset({os.getegid()}),
        )

    def covers(self, file: FileFacts) -> bool:
        return file.uid in self.uids or file.gid in self.gids

    def covers_user(self, uid: int) -> bool:
        """The same for what belongs to no group: by the groups of the user. Blocking."""
        return uid in self.uids or not self.gids.isdisjoint(sharing.groups_of(uid))


def take(
    root: CacheRoot, name: ModuleName, looks: Inspection, trust: Trust, *, origin: str, compile_s: float | None = None
) -> Taken:
    """Pin and read an entry that has settled.

    Args:
        looks: the entry as it was seen to be settled; it must still look so afterwards.
        origin: as the index calls it.
        compile_s: what the compile took, where it was measured; else the files' times tell.

    Raises NotTaken, CannotShare where the daemon may not read the files, and OSError.
    """
    neff = looks.neff
    if looks.state is not xla.State.READY or neff is None:
        raise NotTaken("changing")
    strangers = sorted(file for file, facts in looks.files.items() if not trust.covers(facts))
    if strangers:
        raise NotTaken("untrusted-owner", f"{strangers[0]} belongs to uid {looks.files[strangers[0]].uid}")
    folder = root.new_folder("outbox")
    try:
        digests = {
            file: _pin(root.entry(name) / file, folder / (file + PART_SUFFIX), facts)
            for file, facts in looks.files.items()
        }
        if root.inspect(name) != looks:
            raise NotTaken("changing")
        if xla.is_failure_text(_start_of(folder / (xla.NEFF + PART_SUFFIX))):
            raise NotTaken("failed")
        fsops.sync_directory(folder)
        fsops.sync_directory(folder.parent)
        points.reached("entry-pinned")
    except FileNotFoundError:
        fsops.remove_tree(folder)
        raise NotTaken("gone") from None
    except BaseException:
        fsops.remove_tree(folder)
        raise
    described = Provenance(digests, compile_s if compile_s is not None else _compile_s(looks))
    return Taken(root.path, name, folder, described, neff, origin)


def is_short(root: CacheRoot, name: ModuleName, neff: FileFacts) -> bool:
    """Whether a NEFF is shorter than its own header says: still being written, where it is its own ready mark."""
    try:
        header = xla.neff_header(_start_of(root.entry(name) / xla.NEFF))
    except OSError:
        return False
    return header is not None and neff.size_bytes < header.file_bytes


def _pin(source: Path, target: Path, facts: FileFacts) -> FileDigest:
    """Link a file, or copy it where a link is not possible or not allowed, and read it once."""
    try:
        if not _is_still(source.lstat(), facts):
            raise NotTaken("changing")
        try:
            os.link(source, target, follow_symlinks=False)
        except FileNotFoundError:
            raise
        except OSError:  # no hard links here, or protected_hardlinks
            return _copy(source, target, facts)
        if not _is_still(target.lstat(), facts):  # somebody put another file, maybe another user's, in its place
            raise NotTaken("changing")
        digest = FileDigest(*fsops.hash_file(target))
        fsops.sync_file(target)
        return digest
    except PermissionError as error:
        raise CannotShare(f"{source}: {error.strerror}", sharing.share_command(source.parent.parent.parent)) from None


def _copy(source: Path, target: Path, facts: FileFacts) -> FileDigest:
    fd = fsops.open_regular(source)
    if not _is_still(os.fstat(fd), facts):
        os.close(fd)
        raise NotTaken("changing")
    return FileDigest(*fsops.copy_open_file(fd, target))


def _is_still(found: os.stat_result, facts: FileFacts) -> bool:
    return stat.S_ISREG(found.st_mode) and (fsops.inode(found), found.st_uid, found.st_gid) == (
        facts.inode,
        facts.uid,
        facts.gid,
    )


def _start_of(path: Path) -> bytes:
    with open(fsops.open_regular(path), "rb") as reader:
        return reader.read(xla.NEFF_HEADER_BYTES)


def _compile_s(looks: Inspection) -> float | None:
    """Seconds from the inputs, written before the compile, to the NEFF, written after it."""
    inputs = [facts.mtime_ns for file, facts in looks.files.items() if file in xla.INPUTS]
    if looks.neff is None or not inputs:
        return None
    seconds = round((looks.neff.mtime_ns - min(inputs)) / 1e9, 3)
    return seconds if seconds >= 0 else None  # the wall clock has jumped
