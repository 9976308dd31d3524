"""Entries made around a crash of the machine: looked through at the next start, before any of them is taken. Blocking.

A trainer does not sync what it writes, so a power loss may leave a ready mark beside a NEFF that is cut off or holds
zeroes; and a disk may have lied about what neffd itself synced. What is found to be torn is removed as an eviction is,
so that it is fetched or compiled again. What cannot be read then is looked through when it can be.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.store import fsops
from neffd.store.index import Index, Noted
from neffd.store.removal import Remover
from neffd.store.root import CacheRoot, FileFacts

# Longer than a kernel keeps written data in memory (about 35 s, unless it is told otherwise).
_AROUND_S = 600.0
_HLO_FILES = ("wrapped_neff.hlo", "model.hlo_module.pb", "model.hlo.pb")
# So many entries' digests are in memory at once.
_STRIDE = 500
_FIRST_FIELD = 0x0A  # an HLO module begins with its name
_MOST_VARINT_BYTES = 10


def verify(
    root: CacheRoot,
    index: Index,
    names: Collection[ModuleName],
    closed: Collection[str] = (),
    wall: Callable[[], float] = time.time,
) -> dict[ModuleName, str]:
    """Look through what was made shortly before the machine went down, if it has been started again since.

    Returns torn entries and what is wrong with each; they are removed where that is possible. What could not be read is
    noted for `Late`. Raises OSError and sqlite3.Error: then the next call does it again.

    Args:
        names: all entries that are there.
        closed: by name, what could not be listed.
    """
    last = index.last_boot(root.path)
    if last == index.boot:
        return {}
    if last is None:
        index.note_boot(root.path)
        return {}
    began_s = wall()
    torn, unread = _look_through(root, index, names, began_s)
    _, still_unread = index.unread_after_crash(root.path)
    index.note_boot(root.path, began_s, {*closed, *map(str, unread), *still_unread})
    return torn


class Late:
    """Entries that could not be read when all others were looked through, each looked through as soon as it can be.

    The index has them, so that also the next life of the daemon looks.

    Args:
        everything: the name of all that is there.
    """

    def __init__(self, root: CacheRoot, index: Index, everything: str) -> None:
        self._root = root
        self._index = index
        # What was made later than that has met no crash.
        self._before_s, self._unread = index.unread_after_crash(root.path)
        self._everything = everything
        self._seen: set[ModuleName] = set()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be looked through."""
        return not self._unread

    def all_listed(self, names: Iterable[ModuleName]) -> None:
        """Nothing else than `names` is there: once all of them were looked through it is over. Blocking."""
        if not any(self._is_awaited(name) for name in names):
            self._index.note_boot(self._root.path)
            self._unread = frozenset()

    def is_unready(self, name: ModuleName) -> None:
        """An entry can be seen by now, and has no ready mark that met the crash."""
        if self._is_awaited(name):
            self._seen.add(name)

    def look_through(self, name: ModuleName) -> str | None:
        """What is wrong with an entry that is ready, and can be read by now; it is removed where that is possible.

        Raises OSError where it cannot be read after all, and sqlite3.Error. Blocking.
        """
        if not self._is_awaited(name):
            return None
        why, neff = None, self._root.ready_neff(name)
        if neff is not None and self._is_old(name):
            why = _what_is_torn(self._root, name, self._index.noted(self._root.path, [name]).get(name))
            if why is not None:
                _remove(self._root, self._index, {name: neff})
        self._seen.add(name)
        return why

    def _is_awaited(self, name: ModuleName) -> bool:
        is_unread = not self._unread.isdisjoint((self._everything, name.namespace, str(name)))
        return is_unread and name not in self._seen

    def _is_old(self, name: ModuleName) -> bool:
        try:
            return self._root.is_older(name, self._before_s)
        except FileNotFoundError:  # somebody has removed it meanwhile
            return False


def _look_through(
    root: CacheRoot, index: Index, names: Iterable[ModuleName], now: float
) -> tuple[dict[ModuleName, str], set[ModuleName]]:
    """The torn, and those that cannot be read."""
    noted_at = index.noted_before(root.path)
    ready = {name: neff for name in names if (neff := root.ready_neff(name)) is not None}
    unread = {name for name in names if name not in ready and root.is_closed(name)}
    suspects = _suspects(ready, noted_at, now)
    torn = {}
    for start in range(0, len(suspects), _STRIDE):
        some = suspects[start : start + _STRIDE]
        noted = index.noted(root.path, [name for name in some if name in noted_at])
        for name in some:
            try:
                why = _what_is_torn(root, name, noted.get(name))
            except OSError:
                unread.add(name)
                continue
            if why is not None:
                torn[name] = why
    _remove(root, index, {name: ready[name] for name in torn})
    return torn, unread


def _remove(root: CacheRoot, index: Index, torn: Mapping[ModuleName, FileFacts]) -> None:
    remover = Remover(root, index)
    # Who made it may have died before it let go of the lock.
    gone, _ = remover.unmark(torn, locked_too=True)
    for entry in gone:
        remover.finish(entry)


def _suspects(
    ready: Mapping[ModuleName, FileFacts], noted_at: Mapping[ModuleName, float], now: float
) -> list[ModuleName]:
    """Ready entries that were written or noted shortly before the last sign of life, or later.

    A time that is still to come is no sign: one copied file may carry it, and would hide all others.
    """
    signs = {name: neff.mtime_ns / 1e9 for name, neff in ready.items()}
    for name in noted_at.keys() & ready.keys():
        signs[name] = max(signs[name], noted_at[name])
    newest = max([at for at in signs.values() if at <= now] or signs.values(), default=0.0)
    return [name for name, at in signs.items() if at >= newest - _AROUND_S]


def _what_is_torn(root: CacheRoot, name: ModuleName, noted: Noted | None) -> str | None:
    """One line, or None where nothing is known to be wrong. What was read before is held against what it was then.

    Raises OSError where it cannot be read.
    """
    folder = root.entry(name)
    try:
        looks = root.inspect(name)
        files = looks.files
        if looks.neff is None:
            return None
        if noted is not None and noted.known.is_same(looks.neff) and noted.digests:
            return _what_differs(folder, files, noted)
        for file in files:
            if file != xla.DONE and (why := _looks_torn(folder / file)) is not None:
                return f"{file} {why}"
    except FileNotFoundError:
        return None  # somebody has removed it meanwhile
    return None


def _what_differs(folder: Path, files: Mapping[str, FileFacts], noted: Noted) -> str | None:
    for file in xla.OUTPUTS:  # the inputs are the trainer's own, even of a fetched entry
        digest = noted.digests.get(file)
        if digest is None:
            continue
        if file not in files or files[file].size_bytes != digest.size_bytes:
            return f"{file} has not its {digest.size_bytes} bytes"
        if fsops.hash_file(folder / file)[1] != digest.sha256:
            return f"{file} is not what it was"
    return None


def _looks_torn(path: Path) -> str | None:
    with open(fsops.open_regular(path), "rb") as reader:
        size_bytes = os.fstat(reader.fileno()).st_size
        if size_bytes == 0:
            return "is empty"
        if _has_hole(reader.fileno(), size_bytes):
            return "has a hole"
        if path.name == xla.NEFF:
            start = reader.read(xla.NEFF_HEADER_BYTES)
            header = xla.neff_header(start)
            if header is not None and size_bytes < header.file_bytes:
                return f"has {size_bytes} of {header.file_bytes} bytes"
            return None if start.strip(b"\0") else "begins with zeroes"
        if path.name in _HLO_FILES and _ends_within_a_field(reader.read(), size_bytes):
            return "is cut off"
    return None


def _has_hole(fd: int, size_bytes: int) -> bool:
    """Whether blocks were never written, and read as zeroes."""
    try:
        hole = os.lseek(fd, 0, os.SEEK_HOLE)
    except OSError:  # this file system cannot tell
        hole = size_bytes
    os.lseek(fd, 0, os.SEEK_SET)
    # Some file systems have called a hole what was only not on disk yet.
    return hole < size_bytes and not os.pread(fd, fsops.CHUNK_BYTES, hole)[:1].strip(b"\0")


def _ends_within_a_field(content: bytes, size_bytes: int) -> bool:
    """Whether a protocol buffer ends too early; false for what does not look like an HLO module."""
    at = 0
    try:
        while at < size_bytes and content[0] == _FIRST_FIELD:
            at = _after_field(content, at)
    except _UnknownForm:
        return False
    return at > size_bytes


def _after_field(content: bytes, at: int) -> int:
    tag, at = _varint(content, at)
    if tag & 7 == 0:
        return _varint(content, at)[1]
    if tag & 7 == 2:
        length, at = _varint(content, at)
        return at + length
    if tag & 7 in (1, 5):
        return at + (8 if tag & 7 == 1 else 4)
    raise _UnknownForm


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends; beyond the end of `content` if that cuts it off."""
    value = 0
    for place, byte in enumerate(content[at : at + _MOST_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * place
        if not byte & 0x80:
            return value, at + place + 1
    if at + _MOST_VARINT_BYTES <= len(content):
        raise _UnknownForm
    return value, len(content) + 1


class _UnknownForm(Exception):
    """No field of a protocol buffer that we know."""
