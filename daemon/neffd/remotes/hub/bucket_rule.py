"""How hosts share a bucket that has neither commits nor conditions: one rule, decisions only.

Every path is last-writer-wins, so two hosts that write one key at once can leave a mix of their files. Each host looks
before it writes, puts an entry's ready mark last, and looks again afterwards. Whoever sees a mix writes the whole entry
again: the host whose NEFF sorts lowest at once, the others only if nothing has changed for a while, since the host
whose turn it is may have gone. A mix is never overlooked: the last to write one of its files looks at it later.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from neff import keys
from neffd.layouts import xla
from neffd.remotes import provenance
from neffd.remotes.base import PublishResult
from neffd.remotes.provenance import FileDigest, Provenance

# How long a mix must stay as it is before a host writes that is not the first in line.
_SHORT_S = 1.0
_LONG_S = 4.0

# Every name that an entry may have in a bucket.
NAMES = (*sorted(xla.SHARED), provenance.FILE_NAME)


@dataclass(frozen=True)
class Stored:
    """One file as a bucket lists it."""

    size_bytes: int
    xet_hash: str


@dataclass(frozen=True)
class Picture:
    """An entry as it was in the bucket at one moment.

    `stated` is what its `neffd.json` says; `was_refused` tells that a download of just these files did not fit it.
    """

    files: Mapping[str, Stored]
    stated: Provenance | None
    was_refused: bool = False

    @property
    def revision(self) -> str:
        """Equal for equal contents: each file's Xet hash, as JSON."""
        return json.dumps({file: stored.xet_hash for file, stored in self.files.items()}, sort_keys=True)

    def is_ready(self, namespace: str) -> bool:
        """Whether it has its ready mark and a NEFF."""
        neff = self.files.get(xla.NEFF)
        return neff is not None and neff.size_bytes > 0 and keys.ready_mark(namespace) in self.files


@dataclass(frozen=True)
class Own:
    """This host's entry: its provenance, and the Xet hash of each of its files and of its `neffd.json`."""

    namespace: str
    provenance: Provenance
    xet_hashes: Mapping[str, str]

    def has(self, file: str, stored: Stored) -> bool:
        """Whether a file of the bucket is ours byte for byte."""
        return self.xet_hashes.get(file) == stored.xet_hash


@dataclass(frozen=True)
class Write:
    """Delete, then write `files` and `statement` as `neffd.json`, then the ready mark if `mark` says so."""

    files: tuple[str, ...]
    mark: bool
    delete: tuple[str, ...]
    statement: Provenance


@dataclass(frozen=True)
class Wait:
    """Look again after so long."""

    seconds: float


class Contest:
    """What one host does about one key, look by look.

    Args:
        patience: stretches the waits; different on each host, so that they do not keep step.
    """

    def __init__(self, own: Own, patience: float = 1.0) -> None:
        self._own = own
        self._patience = patience
        self._has_written = False
        self._seen: Mapping[str, Stored] | None = None
        self._since_s = 0.0

    def next(self, picture: Picture, now_s: float) -> Write | Wait | PublishResult:
        """What to do after a look at the entry; `now_s` is monotonic."""
        if picture.files != self._seen:
            self._seen, self._since_s = picture.files, now_s
        if not is_torn(picture, self._own):
            if _is_same(picture, self._own):
                return self._complete(picture)
            if picture.is_ready(self._own.namespace):
                return PublishResult.ALREADY_THERE
        left_s = self._since_s + self._patience * self._turn_s(picture) - now_s
        return Wait(left_s) if left_s > 0 else self._rewrite(picture)

    def _turn_s(self, picture: Picture) -> float:
        neff = picture.files.get(xla.NEFF)
        if not self._has_written or neff is None:
            return _LONG_S  # somebody else is at work, or was
        statement = picture.files.get(provenance.FILE_NAME)
        theirs = (neff.xet_hash, statement.xet_hash if statement else "")
        ours = (self._own.xet_hashes[xla.NEFF], self._own.xet_hashes[provenance.FILE_NAME])
        if theirs == ours:
            return _SHORT_S
        return 0.0 if ours < theirs else _LONG_S

    def _rewrite(self, picture: Picture) -> Write:
        ours = self._own.provenance
        foreign = tuple(file for file in picture.files if file not in ours.files and file != provenance.FILE_NAME)
        return self._write(list(ours.files), foreign, ours)

    def _complete(self, picture: Picture) -> Write | PublishResult:
        missing = [file for file in self._own.provenance.files if file not in picture.files]
        stated = picture.stated.files if picture.stated is not None else {}
        if not missing and all(file in stated for file in self._own.provenance.files):
            return PublishResult.STORED
        return self._write(missing, (), self._merged(picture, missing))

    def _write(self, files: list[str], delete: tuple[str, ...], statement: Provenance) -> Write:
        self._has_written = True
        mark = keys.ready_mark(self._own.namespace)
        return Write(tuple(file for file in files if file != mark), mark in files, delete, statement)

    def _merged(self, picture: Picture, added: list[str]) -> Provenance:
        """What an entry with our NEFF holds once it has gained `added`: said of the files there, not of ours."""
        ours = self._own.provenance
        old = picture.stated or Provenance({})
        kept = {file: digest for file, digest in old.files.items() if file in picture.files and file in xla.SHARED}
        known = {file: ours.files[file] for file in ours.files if file in added or self._is_ours_in(picture, file)}
        return Provenance({**kept, **known}, old.compile_s or ours.compile_s, old.made or ours.made)

    def _is_ours_in(self, picture: Picture, file: str) -> bool:
        return file in picture.files and self._own.has(file, picture.files[file])


def is_torn(picture: Picture, own: Own) -> bool:
    """Whether the files contradict what is stated of them, as far as a host can tell that knows `own`."""
    if picture.stated is None or picture.was_refused:
        return picture.was_refused
    stated = {file: digest for file, digest in picture.stated.files.items() if file in xla.SHARED}
    if any(_contradicts(picture.files.get(file), file, digest, own) for file, digest in stated.items()):
        return True
    # A file of which nothing is said: left by us in another's entry, or by another in ours.
    is_our_entry = stated.get(xla.NEFF) == own.provenance.files[xla.NEFF]
    unstated = [file for file in picture.files if file not in stated and file != provenance.FILE_NAME]
    return any(own.has(file, picture.files[file]) != is_our_entry for file in unstated)


def _contradicts(stored: Stored | None, file: str, stated: FileDigest, own: Own) -> bool:
    ours = own.provenance.files.get(file)
    if stored is None:
        return ours != stated  # what we have too can be added
    if stored.size_bytes != stated.size_bytes:
        return True
    return ours is not None and own.has(file, stored) != (ours == stated)


def _is_same(picture: Picture, own: Own) -> bool:
    """Whether the entry is one that we may complete: it has our NEFF, or will have."""
    if xla.NEFF in picture.files:
        return own.has(xla.NEFF, picture.files[xla.NEFF])
    if picture.stated is not None:
        return picture.stated.files.get(xla.NEFF) == own.provenance.files[xla.NEFF]
    return all(own.has(file, stored) for file, stored in picture.files.items())
