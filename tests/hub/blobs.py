"""Content-addressed store of file contents: git blobs by blob id, LFS objects by sha256."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.hub.files import fanned, write_atomic
from tests.hub.gitobjects import blob_id


class BlobStore:
    """Blobs under one folder; writing the same content twice is harmless."""

    def __init__(self, root: Path) -> None:
        self._git = root / "git"
        self._lfs = root / "lfs"

    def put_git(self, content: bytes) -> str:
        """Store a regular file and return its git blob id."""
        oid = blob_id(content)
        path = fanned(self._git, oid)
        if not path.exists():
            write_atomic(path, content)
        return oid

    def git_path(self, oid: str) -> Path:
        return fanned(self._git, oid)

    def put_lfs(self, content: bytes) -> str:
        """Store an LFS object and return its sha256."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = fanned(self._lfs, sha256)
        if not path.exists():
            write_atomic(path, content)
        return sha256

    def lfs_path(self, sha256: str) -> Path | None:
        """Return where the LFS object lies, or None if it was never uploaded."""
        path = fanned(self._lfs, sha256)
        return path if path.is_file() else None
