"""What the daemon remembers of local entries: where each came from, and the locks that it holds itself."""

from __future__ import annotations

import functools
import logging
import sqlite3
import sys
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.remotes.provenance import FileDigest
from neffd.store import columns, fsops
from neffd.store.database import Database
from neffd.store.root import FileFacts

log = logging.getLogger(__name__)

LOCAL = "local"
EXISTING = "existing"
_REMOTE_PREFIX = "remote:"


def from_remote(name: str) -> str:
    """The origin of an entry that was fetched from the remote called `name`."""
    return _REMOTE_PREFIX + name


@dataclass(frozen=True, slots=True)
class Known:
    """One indexed entry: its origin, and the NEFF file that this was said of.

    `file_names` is None for an entry that was noted without being read; `was_taken` says that it went through the
    journal.
    """

    origin: str
    neff: tuple[int, int, int]
    file_names: frozenset[str] | None
    was_taken: bool

    def is_same(self, neff: FileFacts) -> bool:
        """Whether `neff` is still the file that was noted."""
        return self.neff == (neff.inode, neff.mtime_ns, neff.size_bytes)

    @property
    def fetched_from(self) -> str | None:
        """The remote that it came from; None for one that was compiled here."""
        return self.origin[len(_REMOTE_PREFIX) :] if self.origin.startswith(_REMOTE_PREFIX) else None


@dataclass(frozen=True)
class Noted:
    """What is noted of an entry, with what its files were; `digests` is empty where it was never read."""

    known: Known
    digests: Mapping[str, FileDigest]


@dataclass(frozen=True)
class Evicted:
    """An entry whose removal was begun: inode and mtime of each file that is to go."""

    name: ModuleName
    files: Mapping[str, tuple[int, int]]
    size_bytes: int


# Others have their turn at the database in between.
_AT_ONCE = 2_000
# Older SQLites take no more than 999.
_MOST_VALUES = 500
_Row = tuple[str, str, str, int, int, int, str | None, int]
_SELECT = "SELECT namespace, key, origin, neff_inode, neff_mtime_ns, neff_bytes, files, was_taken FROM entries"


class Index:
    """Origins of entries and our own lock files, durable in the database."""

    def __init__(self, database: Database, boot: str | None = None) -> None:
        """Args: boot: names this boot of the machine; asked of the kernel where it is not given."""
        self._database = database
        self.boot = boot or boot_id()
        self._own_locks: set[str] = set()
        self._own_lock_went = threading.Condition()

    def known_of(self, root: Path, names: Collection[ModuleName]) -> dict[ModuleName, Known]:
        """What is noted of these entries, as far as anything is. Blocking."""
        if not names:
            return {}
        return self._database.run_blocking(lambda connection: _known_of(connection, root, names))

    def known(self, root: Path, name: ModuleName) -> Known | None:
        """What is noted of one entry. Blocking."""
        return self.known_of(root, [name]).get(name)

    def note_blocking(
        self,
        root: Path,
        name: ModuleName,
        origin: str,
        neff: FileFacts,
        files: Mapping[str, FileDigest],
        compile_s: float | None = None,
    ) -> None:
        """Remember one entry; for a fetched one, before its ready mark appears."""
        self._database.run_blocking(
            lambda connection: self.insert(connection, root, name, origin, neff, files, compile_s)
        )

    def insert(
        self,
        connection: sqlite3.Connection,
        root: Path,
        name: ModuleName,
        origin: str,
        neff: FileFacts,
        files: Mapping[str, FileDigest] | None,
        compile_s: float | None = None,
        was_taken: bool = False,
    ) -> None:
        """The same inside a transaction of the caller's."""
        connection.execute(
            "INSERT OR REPLACE INTO entries VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                str(root),
                *name,
                origin,
                neff.inode,
                neff.mtime_ns,
                neff.size_bytes,
                None if files is None else columns.digests_text(files),
                was_taken,
                compile_s,
                time.time(),
                self.boot,
            ),
        )

    def baseline_blocking(
        self, root: Path, ready: Sequence[tuple[ModuleName, FileFacts]], unread: Iterable[str] = ()
    ) -> None:
        """On the first start on a directory, note its ready entries as existing; cut off, all of it is done again.

        Args:
            unread: paths below `root` of which nobody knows what was there.
        """
        for start in range(0, len(ready), _AT_ONCE):
            self.note_existing(root, dict(ready[start : start + _AT_ONCE]))
        self._keep((f"baseline:{root}", columns.dated_paths_text(time.time(), unread)))

    def note_existing(self, root: Path, ready: Mapping[ModuleName, FileFacts]) -> None:
        """Note entries as from before the first start. Blocking.

        Those that are noted already, in a database that lost others, stay as they are.
        """

        def write(connection: sqlite3.Connection) -> None:
            noted = _known_of(connection, root, ready)
            for name, neff in ready.items():
                if name not in noted or not noted[name].is_same(neff):
                    self.insert(connection, root, name, EXISTING, neff, None)

        self._database.run_blocking(write)

    def unread_at_baseline(self, root: Path) -> tuple[float, frozenset[str]]:
        """When `baseline_blocking` ended, wall seconds, and what was `unread` then. Blocking."""
        return columns.dated_paths(self._kept(f"baseline:{root}"))

    def has_baseline(self, root: Path) -> bool:
        """Whether the daemon has been on this directory before. Blocking."""
        return self._kept(f"baseline:{root}") is not None

    def try_writing(self) -> None:
        """Write what nobody reads; raises sqlite3.Error where nothing can be written. Blocking."""
        self._keep(("tried", str(time.time())))

    def last_boot(self, root: Path) -> str | None:
        """The boot that `note_boot` was last called under, None if it never was. Blocking."""
        return self._kept(f"boot:{root}")

    def note_boot(self, root: Path, before_s: float = 0.0, unread: Iterable[str] = ()) -> None:
        """What is in the cache directory now was looked through, or is made under this boot. Blocking.

        Args:
            before_s: wall seconds: when that look began.
            unread: paths below `root` that could not be looked through, and are still to be.
        """
        self._keep((f"boot:{root}", self.boot), (f"unread:{root}", columns.dated_paths_text(before_s, unread)))

    def unread_after_crash(self, root: Path) -> tuple[float, frozenset[str]]:
        """`before_s` and `unread` as `note_boot` was last told. Blocking."""
        return columns.dated_paths(self._kept(f"unread:{root}"))

    def _keep(self, *rows: tuple[str, str]) -> None:
        query = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
        self._database.run_blocking(lambda connection: connection.executemany(query, rows))

    def _kept(self, name: str) -> str | None:
        query = "SELECT value FROM meta WHERE name = ?"
        row = self._database.run_blocking(lambda connection: connection.execute(query, (name,)).fetchone())
        return None if row is None else str(row[0])

    def noted_before(self, root: Path) -> dict[ModuleName, float]:
        """The entries of one cache directory that were noted under other boots, and when. Blocking."""
        query = (
            "SELECT namespace, key, noted_at FROM entries WHERE root = ? AND (namespace, key) > (?, ?) AND boot_id != ?"
            " ORDER BY namespace, key LIMIT ?"
        )

        def read(connection: sqlite3.Connection, after: ModuleName) -> list[tuple[str, str, float]]:
            return connection.execute(query, (str(root), *after, self.boot, _AT_ONCE)).fetchall()

        noted_at: dict[ModuleName, float] = {}
        last = ModuleName("", "")
        while rows := self._database.run_blocking(functools.partial(read, after=last)):
            noted_at |= {ModuleName(namespace, key): at for namespace, key, at in rows}
            last = ModuleName(*rows[-1][:2])
        return noted_at

    def noted(self, root: Path, names: Collection[ModuleName]) -> dict[ModuleName, Noted]:
        """All that is noted of these entries, as far as anything is. Blocking."""

        def read(connection: sqlite3.Connection) -> dict[ModuleName, Noted]:
            rows = _rows_of(connection, root, names)
            return {
                name: Noted(_known(row), {} if row[6] is None else columns.digests(row[6]))
                for name, row in rows.items()
            }

        return self._database.run_blocking(read)

    def is_own_lock(self, lock: Path) -> bool:
        """Whether a lock file is one that we have made and not yet let go."""
        return str(lock) in self._own_locks

    def wait_for_own_lock(self, lock: Path, most_s: float) -> None:
        """Return when another thread of ours has let go of a lock file, or after `most_s`. Blocking."""
        with self._own_lock_went:
            self._own_lock_went.wait_for(lambda: not self.is_own_lock(lock), most_s)

    def compile_seconds(self, root: Path) -> dict[ModuleName, float]:
        """What compiling each entry took, where that is known. Blocking."""
        query = "SELECT namespace, key, compile_s FROM entries WHERE root = ? AND compile_s IS NOT NULL"
        rows = self._database.run_blocking(lambda connection: connection.execute(query, (str(root),)).fetchall())
        return {ModuleName(namespace, key): compile_s for namespace, key, compile_s in rows}

    def waiting(self, root: Path) -> set[ModuleName]:
        """Entries that the journal holds for some remote, parked or not. Blocking."""
        query = "SELECT DISTINCT namespace, key FROM outbox WHERE root = ?"
        rows = self._database.run_blocking(lambda connection: connection.execute(query, (str(root),)).fetchall())
        return {ModuleName(*row) for row in rows}

    def note_evictions(self, root: Path, evicted: Iterable[Evicted]) -> None:
        """Remember, before the first file goes, what is going to be removed. Blocking."""
        rows = [(str(root), *entry.name, columns.identities_text(entry.files), entry.size_bytes) for entry in evicted]
        self._database.run_blocking(
            lambda connection: connection.executemany("INSERT OR REPLACE INTO evictions VALUES (?,?,?,?,?)", rows)
        )

    def drop_evictions(self, root: Path, names: Iterable[ModuleName]) -> None:
        """The removal of these was finished, or given up. Blocking."""
        rows = [(str(root), *name) for name in names]
        where = "DELETE FROM evictions WHERE root = ? AND namespace = ? AND key = ?"
        self._database.run_blocking(lambda connection: connection.executemany(where, rows))

    def unfinished_evictions(self, root: Path) -> list[Evicted]:
        """What was begun and not finished, in this life or an earlier one. Blocking."""
        query = "SELECT namespace, key, files, size_bytes FROM evictions WHERE root = ?"

        def read(connection: sqlite3.Connection) -> list[Evicted]:
            rows = connection.execute(query, (str(root),))
            return [
                Evicted(ModuleName(namespace, key), columns.identities(files), size_bytes)
                for namespace, key, files, size_bytes in rows
            ]

        return self._database.run_blocking(read)

    def note_uses(self, root: Path, used_at: Mapping[ModuleName, float]) -> None:
        """Remember, for many entries at once, when somebody last asked for them, wall seconds. Blocking."""
        rows = [(str(root), *name, at) for name, at in used_at.items()]
        self._database.run_blocking(
            lambda connection: connection.executemany("INSERT OR REPLACE INTO uses VALUES (?,?,?,?)", rows)
        )

    def uses(self, root: Path) -> dict[ModuleName, float]:
        """When entries were last asked for, as far as that was noted. Blocking."""
        query = "SELECT namespace, key, used_at FROM uses WHERE root = ?"
        rows = self._database.run_blocking(lambda connection: connection.execute(query, (str(root),)).fetchall())
        return {ModuleName(namespace, key): used_at for namespace, key, used_at in rows}

    def forget_evicted(self, root: Path, gone: Collection[Evicted]) -> None:
        """These entries are gone; what is noted of one that has come again stays. Blocking."""
        where = " WHERE root = ? AND namespace = ? AND key = ?"
        uses = [(str(root), *entry.name) for entry in gone]
        rows = [(str(root), *entry.name, *entry.files.get(xla.NEFF, (None, None))) for entry in gone]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM uses" + where, uses)
            connection.executemany("DELETE FROM entries" + where + " AND neff_inode = ? AND neff_mtime_ns = ?", rows)

        self._database.run_blocking(write)

    def note_claim(self, lock: Path, inode: int, mtime_ns: int) -> None:
        """Remember, before it exists, a lock file of stock's kind that we are about to make. Blocking."""
        self._database.run_blocking(
            lambda connection: connection.execute(
                "INSERT OR REPLACE INTO claims VALUES (?,?,?)", (str(lock), inode, mtime_ns)
            )
        )
        self._own_locks.add(str(lock))

    def let_go(self, lock: Path) -> None:
        """None of our threads holds a lock file any more, though it may be there: whoever waits for it goes on."""
        with self._own_lock_went:
            self._own_locks.discard(str(lock))
            self._own_lock_went.notify_all()

    def is_left_over(self, lock: Path, inode: int, mtime_ns: int) -> bool:
        """Whether a lock file is one that we made, let go, and could not remove. Blocking."""
        query, row = "SELECT 1 FROM claims WHERE (lock_path, inode, mtime_ns) = (?, ?, ?)", (str(lock), inode, mtime_ns)
        found = self._database.run_blocking(lambda connection: connection.execute(query, row).fetchone())
        return found is not None and not self.is_own_lock(lock)

    def drop_claim(self, lock: Path) -> None:
        """Forget a lock file that is gone. Blocking."""
        self.let_go(lock)
        self._database.run_blocking(
            lambda connection: connection.execute("DELETE FROM claims WHERE lock_path = ?", (str(lock),))
        )

    def clear_claims(self) -> list[Path]:
        """Remove lock files that an earlier life of the daemon made and left; returns them. Blocking."""
        rows = self._database.run_blocking(
            lambda connection: connection.execute("SELECT lock_path, inode, mtime_ns FROM claims").fetchall()
        )
        cleared = []
        for text, inode, mtime_ns in rows:
            lock = Path(text)
            try:
                facts = lock.lstat()
                # The inode alone could have been given to a trainer's new lock.
                if (fsops.inode(facts), facts.st_mtime_ns) == (inode, mtime_ns):
                    lock.unlink()
                    fsops.sync_directory(lock.parent)
                    cleared.append(lock)
            except (FileNotFoundError, NotADirectoryError):
                pass
            except OSError as error:  # still ours; the next start tries again
                log.warning("lock %s cannot be removed: %s", lock, error.strerror)
                continue
            self.drop_claim(lock)
        return cleared


def _known_of(connection: sqlite3.Connection, root: Path, names: Collection[ModuleName]) -> dict[ModuleName, Known]:
    return {name: _known(row) for name, row in _rows_of(connection, root, names).items()}


def _rows_of(connection: sqlite3.Connection, root: Path, names: Collection[ModuleName]) -> dict[ModuleName, _Row]:
    keys: dict[str, list[str]] = {}
    for name in names:
        keys.setdefault(name.namespace, []).append(name.key)
    rows = {}
    for namespace, of_namespace in keys.items():
        for start in range(0, len(of_namespace), _MOST_VALUES):
            wanted = of_namespace[start : start + _MOST_VALUES]
            # Each text is kept with its program: so there are few, of lengths that double.
            places = 1 << (len(wanted) - 1).bit_length()
            where = f" WHERE root = ? AND namespace = ? AND key IN ({','.join('?' * places)})"
            nobody = [None] * (places - len(wanted))
            found = connection.execute(_SELECT + where, (str(root), namespace, *wanted, *nobody))
            rows.update({ModuleName(namespace, row[1]): row for row in found})
    return rows


def _known(row: _Row) -> Known:
    _, _, origin, inode, mtime_ns, size_bytes, files, was_taken = row
    names = None if files is None else _shared(columns.file_names(files))
    return Known(sys.intern(origin), (inode, mtime_ns, size_bytes), names, bool(was_taken))


@functools.lru_cache(maxsize=256)
def _shared(names: frozenset[str]) -> frozenset[str]:
    """One set for all entries with the same files, which are nearly all."""
    return names


def boot_id() -> str:
    """Names this boot of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
