"""One managed cache directory: where it is, what it holds, where neffd keeps its own files for it."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from neff import keys
from neff.keys import ModuleName
from neffd.errors import NeffdError
from neffd.layouts import xla
from neffd.store import fsops, sharing

# Staged files never carry a stock name: tools that walk the cache directory must not take them for entries.
PART_SUFFIX = ".part"
# huggingface_hub never uploads what is below this name, so optimum-neuron's `synchronize` leaves our files alone.
_INSIDE = Path(".cache/huggingface/neffd")
# In the staging folder: held for the life of the daemon that has it.
STAGING_LOCK = "neffd.lock"
# How a second daemon's refusal begins; the path follows.
SERVED = "another neffd serves the cache directory"
# What is wrong with a disk, not with rights: it passes, and nobody has to start us again then.
_DISK = (errno.EROFS, errno.ENOSPC, errno.EDQUOT)
# What SQLite can hold: up to the year 2262, while a file may carry any.
_LATEST_NS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class FileFacts:
    """One file as a `stat` shows it; equal facts mean an untouched file."""

    size_bytes: int
    mtime_ns: int
    inode: int
    uid: int
    gid: int

    @classmethod
    def of(cls, facts: os.stat_result) -> FileFacts:
        """What a `stat` says, with a time that the database can hold: where it is beyond that, the nearest one."""
        mtime_ns = max(-_LATEST_NS, min(facts.st_mtime_ns, _LATEST_NS))
        return cls(facts.st_size, mtime_ns, fsops.inode(facts), facts.st_uid, facts.st_gid)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What an entry's folder held at one moment. `files` are those that can be shared.

    A folder that the daemon may not read looks empty, and says so in `is_readable`. What only eviction asks for (the
    size of all files, when the NEFF was last read in wall seconds, whether there is a lock) makes no difference between
    two looks.
    """

    state: xla.State
    files: dict[str, FileFacts]
    folder_exists: bool = True
    is_readable: bool = True
    size_bytes: int = field(default=0, compare=False)
    read_at: float = field(default=0.0, compare=False)
    is_locked: bool = field(default=False, compare=False)

    @property
    def neff(self) -> FileFacts | None:
        return self.files.get(xla.NEFF)


class CacheRoot:
    """A cache directory that belongs to the framework, and neffd's staging folder on the same file system.

    Attributes:
        path: the directory as configured, without links.
        staging: neffd's own folder: beside the directory where that is writable, else hidden inside it.
        closed: why the disk, full or read-only, has not let us have `staging` since the start; None where it has.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`, creating it like a child of its parent if it is missing; raises NeffdError if that fails."""
        try:
            self.path = path.resolve()
            if not self.path.is_dir():
                self._create()
            identity = self.path.stat()
        except sharing.CannotShare as error:
            raise NeffdError(
                "cache-dir", f"cache directory {path} cannot be created: {error.detail}", error.hint
            ) from None
        except OSError as error:
            make_it = "create it writable for trainers and for the daemon's group, or name another in cache_dirs"
            raise NeffdError(
                "cache-dir",
                f"cache directory {path} cannot be used: {error.strerror}",
                disk_hint(error, path) or make_it,
            ) from None
        self.closed: OSError | None = None
        self.staging, self.closed = self._open_staging(identity)

    def look_again(self) -> OSError | None:
        """See whether `staging` can be made or written by now; returns why not. `closed` is the caller's to change.

        Raises NeffdError where that is a matter of rights, and OSError.
        """
        self.staging, closed = self._open_staging(self.path.stat())
        return closed

    def identity(self) -> tuple[int, int] | None:
        """(device, inode) of the directory as it is now, for clients that know it under another path."""
        try:
            facts = self.path.stat()
        except OSError:
            return None
        return facts.st_dev, facts.st_ino

    def entry(self, name: ModuleName) -> Path:
        """The folder of one entry."""
        return self.path / name.namespace / name.key

    def new_folder(self, purpose: str) -> Path:
        """A new empty folder of ours below the staging folder, `purpose` being `fetch` or `outbox`."""
        if self.closed is not None:
            raise OSError(self.closed.errno, self.closed.strerror, str(self.staging))
        folder = self.staging / purpose / secrets.token_hex(8)
        try:
            folder.mkdir(mode=0o700)
        except FileNotFoundError:
            self.staging.parent.mkdir(parents=True, exist_ok=True)
            fsops.make_folders(folder.parent, 0o700)
            folder.mkdir(mode=0o700)
        return folder

    def namespaces(self) -> Iterator[str]:
        """Compiler versions with a folder here."""
        yield from self._folders(self.path, keys.is_namespace)

    def module_keys(self, namespace: str) -> Iterator[str]:
        """Modules with a folder in `namespace`, in whatever state."""
        yield from self._folders(self.path / namespace, keys.is_module_key)

    def inspect(self, name: ModuleName) -> Inspection:
        """Look at one entry's folder; links, of the folder too, and other non-files count as absent."""
        files: dict[str, FileFacts] = {}
        sizes_bytes: dict[str, int] = {}
        read_at = 0.0
        try:
            for file, facts in _regular_files(f"{self.path}/{name.namespace}", name.key):
                sizes_bytes[file] = facts.st_size
                if file == xla.NEFF:
                    read_at = facts.st_atime
                if file in xla.SHARED:
                    files[file] = FileFacts.of(facts)
        except (FileNotFoundError, NotADirectoryError):
            return Inspection(xla.State.EMPTY, {}, folder_exists=False)
        except PermissionError:
            return Inspection(xla.State.EMPTY, {}, is_readable=False)
        is_locked = any(file.endswith(xla.LOCK_SUFFIX) for file in sizes_bytes)
        state = xla.state(name.namespace, sizes_bytes)
        return Inspection(state, files, size_bytes=sum(sizes_bytes.values()), read_at=read_at, is_locked=is_locked)

    def is_ready(self, name: ModuleName) -> bool:
        """Whether the entry can be used now: two `stat` calls."""
        folder = f"{self.path}/{name.namespace}/{name.key}/"  # on the lookup path: no Path objects
        try:
            os.stat(folder + keys.ready_mark(name.namespace))  # noqa: PTH116
            return os.stat(folder + xla.NEFF).st_size > 0  # noqa: PTH116
        except OSError:
            return False

    def ready_neff(self, name: ModuleName) -> FileFacts | None:
        """The NEFF of an entry that is ready: what `inspect` tells of it, for a third of the price."""
        folder = f"{self.path}/{name.namespace}/{name.key}"
        try:
            parts = (folder, f"{folder}/{keys.ready_mark(name.namespace)}", f"{folder}/{xla.NEFF}")
            above, mark, neff = map(os.lstat, parts)
        except OSError:
            return None
        if not (stat.S_ISDIR(above.st_mode) and stat.S_ISREG(mark.st_mode) and stat.S_ISREG(neff.st_mode)):
            return None
        return FileFacts.of(neff) if neff.st_size > 0 else None

    def is_closed(self, name: ModuleName) -> bool:
        """Whether the entry cannot be looked at."""
        try:
            return not self.inspect(name).is_readable
        except OSError:
            return True

    def is_older(self, name: ModuleName, than_s: float) -> bool:
        """Whether the entry's NEFF is from before a time of the wall clock; raises OSError.

        By either of its times: opening a folder changes the one of its files, copying them may keep the other.
        """
        facts = (self.entry(name) / xla.NEFF).lstat()
        return min(facts.st_mtime, facts.st_ctime) < than_s

    def _create(self) -> None:
        parent = self.path.parent
        draft = parent / f".{self.path.name}.{secrets.token_hex(4)}.neffd"
        draft.mkdir()
        try:
            sharing.inherit(draft, parent)
            sharing.check_harmless(draft, parent)
            fsops.rename_exclusive(draft, self.path)
        except FileExistsError:
            draft.rmdir()
        except BaseException:
            draft.rmdir()
            raise

    def _open_staging(self, identity: os.stat_result) -> tuple[Path, OSError | None]:
        """Where the staging folder is, and why it cannot be written or made, if that is the disk's fault."""
        closed: OSError | None = None
        places = staging_places(self.path)
        for place in places:
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                fsops.make_folders(place, 0o700)
                facts = place.lstat()
            except OSError as error:
                closed = error if error.errno in _DISK else closed
                continue
            # In a world-writable parent somebody else may have made it to read or swap what we stage.
            ours = facts.st_uid == os.geteuid() and not stat.S_IMODE(facts.st_mode) & 0o077
            if stat.S_ISDIR(facts.st_mode) and ours and facts.st_dev == identity.st_dev:
                is_read_only = os.statvfs(place).f_flag & os.ST_RDONLY
                return place, OSError(errno.EROFS, os.strerror(errno.EROFS)) if is_read_only else None
        if closed is not None:
            return places[1], closed
        raise NeffdError(
            "staging-dir",
            f"no staging folder of our own can be made at {places[0]} or {places[1]}",
            sharing.share_command(self.path),
        )

    @staticmethod
    def _folders(parent: Path, wanted: Callable[[str], bool]) -> Iterator[str]:
        try:
            with os.scandir(parent) as found:
                names = [item.name for item in found if wanted(item.name) and item.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return
        yield from names


def staging_places(root: Path) -> tuple[Path, Path]:
    """Where the staging folder of a cache directory can be: the first that is possible is taken."""
    return root.parent / f"{root.name}.neffd", root / _INSIDE


def is_served(root: Path, *, if_hidden: bool) -> bool:
    """Whether some daemon has locked the staging folder; `if_hidden`: the answer where that is another user's."""
    for staging in staging_places(root):
        try:
            lock = os.open(staging / STAGING_LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except PermissionError:
            if if_hidden:
                return True
            continue
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(lock)
    return False


def disk_hint(error: OSError, path: Path) -> str:
    """What to do about a disk that cannot be written; empty for any other error."""
    if error.errno == errno.EROFS:
        return f"mount it writable; where that is the service's view of it: ReadWritePaths={path.parent}"
    return "free space" if error.errno in _DISK else ""


def _regular_files(parent: str, key: str) -> Iterator[tuple[str, os.stat_result]]:
    """Raises NotADirectoryError if `parent` or the folder in it is a link. No Path objects, since scans ask often."""
    if not stat.S_ISDIR(os.lstat(parent).st_mode):
        raise NotADirectoryError(parent)
    # What is asked by the folder's descriptor, the kernel need not look up from the root each time.
    folder = os.open(f"{parent}/{key}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for name in os.listdir(folder):  # noqa: PTH208
            try:
                facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:  # a lock, say, that has just been released
                continue
            if stat.S_ISREG(facts.st_mode):
                yield name, facts
    finally:
        os.close(folder)
