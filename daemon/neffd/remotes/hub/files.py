"""Files of entries, on worker threads: one that arrives in pieces, hashed on the way; a pinned one, checked again."""

from __future__ import annotations

import hashlib
import os
import threading
from io import FileIO
from pathlib import Path

from neffd.remotes.base import EntryFailed, OutgoingEntry, RemoteFile, SpoiltOnTheWay
from neffd.remotes.provenance import FileDigest
from neffd.store import fsops
from neffd.store.root import PART_SUFFIX

_READ_BYTES = 1 << 20


class IncomingFile:
    """One file of an entry under way.

    A transfer that is given up closes the file while a piece may still be on its way to it: that piece is written or
    dropped, but never opens the file again.

    Args:
        path: where it goes; must not exist.
        expected: what the Hub states of it.
    """

    def __init__(self, path: Path, expected: RemoteFile) -> None:
        self.path = path
        self.expected = expected
        self._lock = threading.Lock()
        self._writer: FileIO | None = None
        self._is_closed = False
        self._is_adopted = False
        self._count_anew()

    def write(self, *pieces: bytes) -> None:
        """Take the next pieces; raises EntryRefused if there is more than the Hub stated, and OSError."""
        with self._lock:
            if pieces and not self._is_closed:
                for piece in pieces:
                    self._count(piece)
                fsops.write_all(self._opened().fileno(), pieces)

    def finish(self, *pieces: bytes) -> FileDigest:
        """Take the last pieces, sync and check; raises EntryRefused where the content is not what the Hub states."""
        self.write(*pieces)
        with self._lock:
            if self._is_adopted:
                self._read()
            else:
                writer = self._opened()
                if self._arrived_bytes:  # of an empty file there is only its name, which is the folder's
                    os.fsync(writer.fileno())
        return self._checked()

    def restart(self) -> None:
        """Begin again with nothing; raises OSError."""
        with self._lock:
            self._count_anew()
            if self._is_closed:
                return
            if self._writer is None:
                self.path.unlink(missing_ok=True)
            else:
                self._writer.seek(0)
                self._writer.truncate()

    def adopt(self) -> None:
        """What is at `path` was written by somebody else: `finish` reads and checks it."""
        self._is_adopted = True

    def take_back(self) -> bytes:
        """What somebody else wrote to `path`, which is to be written once more; raises OSError."""
        content = self.path.read_bytes()
        self._is_adopted = False
        self.restart()
        return content

    def close(self) -> None:
        """Close the file; what it holds is the caller's to keep or remove."""
        with self._lock:
            self._is_closed = True
            if self._writer is not None:
                self._writer.close()

    def _checked(self) -> FileDigest:
        expected, sha256 = self.expected, self._sha256.hexdigest()
        if self._arrived_bytes != expected.size_bytes:
            raise SpoiltOnTheWay("size-mismatch", f"{expected.name} is shorter than stated")
        if expected.sha256 is None:
            is_it = expected.git_sha1 in (None, self._git_sha1.hexdigest())
        else:
            is_it = expected.sha256 == sha256
        if not is_it:
            raise SpoiltOnTheWay("digest-mismatch", f"{expected.name} is not what the Hub states")
        return FileDigest(self._arrived_bytes, sha256)

    def _read(self) -> None:
        with self.path.open("rb") as reader:
            os.fsync(reader.fileno())
            while piece := reader.read(_READ_BYTES):
                self._count(piece)

    def _opened(self) -> FileIO:
        if self._is_closed:
            raise ValueError("the transfer was given up")
        if self._writer is None:
            self._writer = FileIO(self.path, "xb")
        return self._writer

    def _count_anew(self) -> None:
        self._arrived_bytes = 0
        self._sha256 = hashlib.sha256()
        # The Hub names small files by the hash that git gives them: over a header, then the content.
        self._git_sha1 = hashlib.sha1(f"blob {self.expected.size_bytes}\0".encode(), usedforsecurity=False)

    def _count(self, piece: bytes) -> None:
        self._arrived_bytes += len(piece)
        if self._arrived_bytes > self.expected.size_bytes:
            raise SpoiltOnTheWay("size-mismatch", f"{self.expected.name} is longer than stated")
        self._sha256.update(piece)
        if self.expected.sha256 is None:
            self._git_sha1.update(piece)


def flaw(entry: OutgoingEntry) -> EntryFailed | None:
    """Why an entry cannot go as it is pinned; None where its files are what was taken. Blocking."""
    try:
        for file, digest in entry.provenance.files.items():
            if FileDigest(*fsops.hash_file(entry.directory / (file + PART_SUFFIX))) != digest:
                return EntryFailed("changed-locally")
    except FileNotFoundError:
        return EntryFailed("gone-locally")
    except OSError:  # says nothing of the file: too many are open, a mount is away
        return EntryFailed("disk", permanent=False)
    return None
