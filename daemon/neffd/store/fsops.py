"""The few file operations that the standard library lacks or that need care, each in one place."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from neffd.errors import NeffdError

CHUNK_BYTES = 1 << 20
# Linux takes 1,024 of them at once (IOV_MAX).
_MOST_PIECES = 1024
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_libc = ctypes.CDLL(None, use_errno=True)


def rename_exclusive(source: Path, target: Path) -> None:
    """Rename `source` to `target` in one step; raises FileExistsError if `target` exists, even as an empty folder."""
    renameat2 = getattr(_libc, "renameat2", None)
    if renameat2 is not None:
        result = renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
        if result == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(code, os.strerror(code), str(source), None, str(target))
    _rename_exclusive_portably(source, target)


def _rename_exclusive_portably(source: Path, target: Path) -> None:
    """For file systems without RENAME_NOREPLACE (NFS): claim the name first."""
    if source.is_dir():
        target.mkdir()  # claims the name; rename replaces an empty folder in one step
        try:
            source.rename(target)
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:  # somebody has moved in: the name is theirs now
                code = errno.EEXIST
                raise FileExistsError(code, os.strerror(code), str(source), None, str(target)) from None
            with contextlib.suppress(OSError):
                target.rmdir()
            raise
        return
    os.link(source, target)
    source.unlink()


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder itself, not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def open_regular(path: Path) -> int:
    """Open a regular file for reading without following a link; raises OSError (ELOOP, EINVAL) otherwise.

    Where we may, without a new access time: that is to tell when others used the file.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags | os.O_NOATIME)
    except PermissionError:  # another user's
        fd = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return fd


def copy_hashed(source: Path, target: Path, progress: Callable[[int], None] = lambda _: None) -> tuple[int, str]:
    """Copy a regular file to a new file, synced to disk; returns its size in bytes and sha256.

    Raises FileExistsError if `target` exists.
    """
    return copy_open_file(open_regular(source), target, progress)


def copy_open_file(source_fd: int, target: Path, progress: Callable[[int], None] = lambda _: None) -> tuple[int, str]:
    """The same from a file that is open already; closes it."""
    digest = hashlib.sha256()
    size_bytes = 0
    with open(source_fd, "rb", buffering=0) as reader, target.open("xb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            writer.write(chunk)
            digest.update(chunk)
            size_bytes += len(chunk)
            progress(len(chunk))
        writer.flush()
        os.fsync(writer.fileno())
    return size_bytes, digest.hexdigest()


def hash_file(path: Path) -> tuple[int, str]:
    """Size in bytes and sha256 of a regular file."""
    digest = hashlib.sha256()
    size_bytes = 0
    with open(open_regular(path), "rb", buffering=0) as reader:
        while chunk := reader.read(CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
    return size_bytes, digest.hexdigest()


def read_start(path: Path, most_bytes: int) -> bytes:
    """The beginning of a regular file, all of it if it is no longer than `most_bytes`; raises OSError."""
    fd = open_regular(path)
    try:
        # No larger buffer than what is there can fill.
        return os.read(fd, min(most_bytes, os.fstat(fd).st_size + 1))
    finally:
        os.close(fd)


def read_small(path: Path, limit_bytes: int) -> bytes:
    """Content of a regular file; raises OSError (EFBIG) if it is over `limit_bytes`."""
    content = read_start(path, limit_bytes + 1)
    if len(content) > limit_bytes:
        raise OSError(errno.EFBIG, f"over {limit_bytes} bytes", str(path))
    return content


def write_all(fd: int, pieces: Sequence[bytes]) -> None:
    """Write pieces, one after the other, with as few calls as it takes; raises OSError."""
    views = [memoryview(piece) for piece in pieces if piece]
    while views:
        written_bytes = os.writev(fd, views[:_MOST_PIECES])
        while written_bytes:
            whole = min(written_bytes, len(views[0]))
            written_bytes -= whole
            views[0] = views[0][whole:]
            if not views[0]:
                del views[0]


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and sync it; raises FileExistsError if it exists."""
    with path.open("xb") as writer:
        writer.write(content)
        writer.flush()
        os.fsync(writer.fileno())


def sync_directory(path: Path) -> None:
    """Make renames and creations in `path` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Put the content of a regular file on disk, whoever wrote it; raises OSError."""
    fd = open_regular(path)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folders(path: Path, mode: int) -> None:
    """Make a folder and those above it that are missing, each synced into the one above; one that is there stays."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=mode, exist_ok=True)
        sync_directory(folder.parent)


def inode(facts: os.stat_result) -> int:
    """A file's number as SQLite can hold it: some file systems use all 64 bits."""
    return facts.st_ino & (2**63 - 1)


def remove_tree(path: Path) -> None:
    """Delete a folder of ours and all below it; what is already gone or not ours to delete is left."""
    shutil.rmtree(path, ignore_errors=True)


def hold_for_life(fd: int, taken: str, hint: str) -> int:
    """Lock an open file until this process ends, however it ends; returns `fd`.

    Raises NeffdError, saying `taken` and `hint`, where another process holds it; `fd` is closed then.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise NeffdError("already-running", taken, hint) from None
    return fd
