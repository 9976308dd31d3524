"""Writing a file that arrives in pieces: hashed on the way, synced at the end. Blocking; runs on worker threads."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from neffd.remotes.base import EntryRefused, RemoteFile
from neffd.remotes.provenance import FileDigest


class IncomingFile:
    """One file of an entry under way.

    Args:
        path: where it goes; must not exist.
        expected: what the Hub states of it.
    """

    def __init__(self, path: Path, expected: RemoteFile) -> None:
        self._expected = expected
        self._sha256 = hashlib.sha256()
        # The Hub names small files by the hash that git gives them: over a header, then the content.
        self._git_sha1 = hashlib.sha1(f"blob {expected.size_bytes}\0".encode(), usedforsecurity=False)
        self._size_bytes = 0
        self._writer = path.open("xb", buffering=0)

    def write(self, piece: bytes) -> None:
        """Take the next piece; raises EntryRefused if there is more than the Hub stated, and OSError."""
        self._size_bytes += len(piece)
        if self._size_bytes > self._expected.size_bytes:
            raise EntryRefused("size-mismatch", f"{self._expected.name} is longer than stated")
        self._sha256.update(piece)
        if self._expected.sha256 is None:
            self._git_sha1.update(piece)
        view = memoryview(piece)
        while view:
            view = view[self._writer.write(view) :]

    def finish(self) -> FileDigest:
        """Sync and check; raises EntryRefused where the content is not what the Hub states."""
        os.fsync(self._writer.fileno())
        expected = self._expected
        if expected.sha256 is None and expected.git_sha1 not in (None, self._git_sha1.hexdigest()):
            raise EntryRefused("digest-mismatch", f"{expected.name} is not the blob that the Hub names")
        return FileDigest(self._size_bytes, self._sha256.hexdigest())

    def close(self) -> None:
        """Close the file; what it holds is the caller's to keep or remove."""
        self._writer.close()


def create_empty(path: Path) -> FileDigest:
    """An empty file needs no request."""
    path.open("xb").close()
    return FileDigest(0, hashlib.sha256(b"").hexdigest())
