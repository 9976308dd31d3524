"""The daemon's one SQLite file: schema, durability, and the thread that all access goes through."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from neffd import points
from neffd.errors import NeffdError
from neffd.store import columns, damage, fsops
from neffd.store.filesystem import network_file_system

log = logging.getLogger(__name__)
T = TypeVar("T")

# At the start; what takes longer is looked through behind it.
_CHECK_S = 0.05

# The kernel caches the file too; ours are full within minutes, and then memory says what grows.
_CACHE_KIB, _PREPARED = 128, 32
# One script a version; the file's user_version says how many were applied.
_MIGRATIONS = (
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE entries (
        root TEXT NOT NULL, namespace TEXT NOT NULL, key TEXT NOT NULL,
        origin TEXT NOT NULL,           -- 'local', 'existing' (before the first start), 'remote:<name>'
        neff_inode INTEGER, neff_mtime_ns INTEGER, neff_bytes INTEGER,
        files TEXT,                     -- JSON, name to [bytes, sha256]; NULL while never read
        was_taken INTEGER NOT NULL,     -- it went through the journal
        compile_s REAL, noted_at REAL NOT NULL, boot_id TEXT NOT NULL,
        PRIMARY KEY (root, namespace, key)
    ) WITHOUT ROWID;
    CREATE TABLE outbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        root TEXT NOT NULL, namespace TEXT NOT NULL, key TEXT NOT NULL,
        folder TEXT NOT NULL,           -- the pinned files
        provenance BLOB NOT NULL, size_bytes INTEGER NOT NULL, file_count INTEGER NOT NULL,
        existing INTEGER NOT NULL, queued_at REAL NOT NULL
    );
    CREATE TABLE deliveries (
        outbox_id INTEGER NOT NULL REFERENCES outbox(id) ON DELETE CASCADE,
        remote TEXT NOT NULL, parked_reason TEXT,
        PRIMARY KEY (outbox_id, remote)
    ) WITHOUT ROWID;
    CREATE INDEX deliveries_by_remote ON deliveries (remote, outbox_id);
    CREATE TABLE claims (lock_path TEXT PRIMARY KEY, inode INTEGER NOT NULL, mtime_ns INTEGER NOT NULL) WITHOUT ROWID;
    """,
    """
    CREATE TABLE listings (
        remote TEXT NOT NULL, namespace TEXT NOT NULL,
        version TEXT NOT NULL,          -- the remote's, when it was listed
        keys TEXT NOT NULL,             -- one a line
        PRIMARY KEY (remote, namespace)
    );
    """,
    """
    CREATE TABLE events (               -- the story of modules, oldest rows dropped
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL, root TEXT NOT NULL, namespace TEXT NOT NULL, key TEXT NOT NULL,
        what TEXT NOT NULL, facts TEXT NOT NULL  -- JSON
    );
    CREATE INDEX events_by_key ON events (key, namespace, id);
    CREATE TABLE failures (             -- how often a failed compile was set aside
        root TEXT NOT NULL, namespace TEXT NOT NULL, key TEXT NOT NULL,
        count INTEGER NOT NULL, last_at REAL NOT NULL,
        PRIMARY KEY (root, namespace, key)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE held_locks (           -- by processes that told us; see neffd.compiles.ledger
        root TEXT NOT NULL, namespace TEXT NOT NULL, key TEXT NOT NULL,
        pid INTEGER NOT NULL, uid INTEGER NOT NULL, start_time INTEGER, pid_space TEXT, boot_id TEXT NOT NULL,
        inode INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
        PRIMARY KEY (root, namespace, key)
    ) WITHOUT ROWID;
    CREATE TABLE seen_locks (           -- whose maker nobody knows
        root TEXT NOT NULL, namespace TEXT NOT NULL, key TEXT NOT NULL,
        inode INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, boot_id TEXT NOT NULL,
        PRIMARY KEY (root, namespace, key)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE refusals (             -- copies on remotes that failed verification
        remote TEXT NOT NULL, namespace TEXT NOT NULL, key TEXT NOT NULL,
        reason TEXT NOT NULL,
        version TEXT NOT NULL,          -- the namespace's on the remote, when it was last compared
        fingerprint TEXT NOT NULL,      -- of what the remote states of the copy
        is_vague INTEGER NOT NULL,      -- the version does not move when the copy is written over
        folder TEXT NOT NULL,           -- where it is kept for a look, or empty
        refused_at REAL NOT NULL,
        PRIMARY KEY (remote, namespace, key)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE evictions (            -- begun, not finished
        root TEXT NOT NULL, namespace TEXT NOT NULL, key TEXT NOT NULL,
        files TEXT NOT NULL,            -- JSON, name to [inode, mtime_ns]
        size_bytes INTEGER NOT NULL,
        PRIMARY KEY (root, namespace, key)
    ) WITHOUT ROWID;
    CREATE TABLE uses (                 -- when somebody last asked for an entry
        root TEXT NOT NULL, namespace TEXT NOT NULL, key TEXT NOT NULL, used_at REAL NOT NULL,
        PRIMARY KEY (root, namespace, key)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE runs (                 -- jobs and the modules they used; see neffd.runs.book
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        instance TEXT NOT NULL UNIQUE,  -- which start of which job
        run_key TEXT NOT NULL,          -- or empty, where nobody said what it runs
        ingredients TEXT NOT NULL,      -- JSON
        is_private INTEGER NOT NULL,
        began_at REAL NOT NULL, heard_at REAL NOT NULL, ended_at REAL
    );
    CREATE INDEX runs_by_key ON runs (run_key, id);
    CREATE TABLE run_modules (
        run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
        position INTEGER NOT NULL,      -- in order of first use
        root TEXT NOT NULL, namespace TEXT NOT NULL, key TEXT NOT NULL,
        how TEXT NOT NULL,              -- local, fetched, prefetched, compiled, asked
        size_bytes INTEGER, compile_s REAL,
        PRIMARY KEY (run_id, namespace, key)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE manifests_pending (    -- what remotes have still to be told of runs; see neffd.runs.pending
        remote TEXT NOT NULL, run TEXT NOT NULL, namespace TEXT NOT NULL,
        path TEXT NOT NULL, document BLOB NOT NULL,  -- as it would be on the remote
        is_private INTEGER NOT NULL, has_ended INTEGER NOT NULL,
        went_alone INTEGER NOT NULL,    -- it has had a commit of its own
        offered_at REAL NOT NULL,
        PRIMARY KEY (remote, run, namespace)
    );
    """,
    """
    CREATE TABLE module_owners (        -- whose runs used a module; see neffd.runs.owners
        namespace TEXT NOT NULL, key TEXT NOT NULL,
        model TEXT NOT NULL,            -- its id on the Hub, or empty for one that is nobody's business
        PRIMARY KEY (namespace, key, model)
    ) WITHOUT ROWID;
    INSERT OR IGNORE INTO module_owners
        SELECT namespace, key, '' FROM run_modules JOIN runs ON run_id = id WHERE is_private;
    """,
)


class Database:
    """A durable SQLite file that one process owns.

    Every work is synced before it is reported done (`synchronous=FULL`); all of them run on one thread, and those that
    wait together are committed together.

    Attributes:
        damaged: where a damaged file is kept, if this start found one; what could be read of it is in the new one.
        on_damage: called, on the database's thread, when the file turns out to be damaged later: the next start will
            look through all of it.
    """

    def __init__(self, state_dir: Path) -> None:
        """Open or create `state_dir/neffd.db`; raises NeffdError if another daemon owns it or it cannot be used."""
        self.path = state_dir / "neffd.db"
        self.damaged: Path | None = None
        self._suspect = state_dir / "neffd.db.suspect"
        self.on_damage: Callable[[BaseException], None] = lambda error: None
        self._is_checked = False
        self._lock_fd = _own(state_dir)
        self._waiting: deque[tuple[Callable[[sqlite3.Connection], Any], Future[Any]]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="neffd-db")
        try:
            self._connection = self._thread.submit(self._open).result()
        except (sqlite3.Error, OSError, NeffdError) as error:
            self._thread.shutdown()
            os.close(self._lock_fd)
            if isinstance(error, NeffdError):
                raise
            raise NeffdError(
                "database",
                f"{self.path} cannot be opened: {error}",
                "see that it can be written and its disk is not full, or set state_dir",
            ) from None

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in one transaction on the database thread; it is durable when this returns."""
        return await asyncio.wrap_future(self._enqueue(work))

    def run_blocking(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The same from a worker thread; never from the event loop."""
        assert not _loop_is_running()
        return self._enqueue(work).result()

    def close(self) -> None:
        """Finish what is queued, close the file and let the next daemon have it."""
        self._thread.submit(self._connection.close).result()
        self._thread.shutdown()
        os.close(self._lock_fd)

    def check_blocking(self) -> None:
        """Look through the whole file, if the start had no time for it; damage is told to `on_damage`. Any thread."""
        if self._is_checked:
            return
        try:
            with contextlib.closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True)) as connection:
                damage.check(connection, None)
            self._is_checked = True
        except damage.ERRORS as error:
            self._note_damage(error)

    def _note_damage(self, error: BaseException) -> None:
        if damage.is_damage(error):
            with contextlib.suppress(OSError):
                self._suspect.touch()
            self.on_damage(error)

    def _open(self) -> sqlite3.Connection:
        """Open the file, or a new one in the place of a damaged one."""
        limit_s = None if self._suspect.exists() else _CHECK_S
        connection = _connect(self.path)
        try:
            self._prepare(connection, limit_s)
        except BaseException as error:
            connection.close()
            if not damage.is_damage_at_opening(error, self.path):
                raise
            return self._replace(error)
        self._suspect.unlink(missing_ok=True)
        return connection

    def _replace(self, error: BaseException) -> sqlite3.Connection:
        self.damaged = damage.keep_aside(self.path)
        log.error("%s is damaged (%s); it is kept as %s", self.path, error, self.damaged)
        connection = _connect(self.path)
        try:
            self._prepare(connection, None)
            whole = frozenset[str]()
            with contextlib.suppress(*damage.ERRORS):
                whole = damage.salvage(self.damaged, connection, columns.PARSERS)
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if "entries" not in whole:
                # Where the unread ones came from nobody knows: they count as from before the first start.
                connection.execute("DELETE FROM meta WHERE name LIKE 'baseline:%'")
            log.warning("carried over in full: %s", ", ".join(sorted(whole)) or "nothing")
        except BaseException:
            connection.close()
            raise
        self._suspect.unlink(missing_ok=True)
        return connection

    def _prepare(self, connection: sqlite3.Connection, check_s: float | None) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        self._is_checked = damage.check(connection, check_s)
        if check_s is None:
            damage.read_all(connection, columns.PARSERS)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(_MIGRATIONS):
            raise NeffdError(
                "newer-database",
                f"{self.path} was made by a newer neffd (schema {version}, this one knows {len(_MIGRATIONS)})",
                "run that version again; moving the file aside would forget what still waits for a remote",
            )
        if version < 0 or damage.tables(connection) != _tables_of(version):
            raise damage.Damaged("its tables are not those of its version")
        _migrate(connection, version)

    def _enqueue(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        future: Future[T] = Future()
        self._waiting.append((work, future))
        self._thread.submit(self._commit_waiting)
        return future

    def _commit_waiting(self) -> None:
        """Everything that came while the disk was busy with the last commit goes into one: a sync is what costs."""
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
        batch = [(work, future) for work, future in batch if future.set_running_or_notify_cancel()]
        if not batch:
            return
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            outcomes = [(future, self._attempt(work)) for work, future in batch]
            self._connection.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):  # closed, or the disk is gone
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            for _, future in batch:
                future.set_exception(error)
            self._note_damage(error)
            return
        for future, (result, failure) in outcomes:
            future.set_result(result) if failure is None else future.set_exception(failure)

    def _attempt(self, work: Callable[[sqlite3.Connection], Any]) -> tuple[Any, Exception | None]:
        """Result and failure of one work; one that fails undoes what it did, and only that."""
        self._connection.execute("SAVEPOINT work")
        try:
            return work(self._connection), None
        except Exception as error:
            if not self._connection.in_transaction:
                raise  # the whole transaction is gone: on a full disk, say
            self._connection.execute("ROLLBACK TO work")
            self._note_damage(error)
            return None, error
        finally:
            if self._connection.in_transaction:
                self._connection.execute("RELEASE work")


def _own(state_dir: Path) -> int:
    """Make the directory and lock it for the life of this process; returns the file descriptor of the lock."""
    network = network_file_system(state_dir)
    if network is not None:
        raise NeffdError(
            "state-dir-on-network",
            f"state directory {state_dir} is on a network file system ({network}), where SQLite's locks do not hold",
            "set state_dir to a directory on a disk of this host",
        )
    try:
        fsops.make_folders(state_dir, 0o750)
        fd = os.open(state_dir / "neffd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise NeffdError(
            "state-dir",
            f"state directory {state_dir} cannot be used: {error.strerror}",
            "make it writable or set state_dir",
        ) from None
    return fsops.hold_for_life(
        fd,
        f"another neffd uses the state directory {state_dir}",
        "stop it; a second daemon needs its own state_dir, socket, http and cache_dirs",
    )


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, cached_statements=_PREPARED)


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the schema up to date, each version all or nothing."""
    for number, script in enumerate(_MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN; {script}")
        points.reached("migrating")
        connection.execute(f"PRAGMA user_version={number}")
        connection.execute("COMMIT")


def _tables_of(version: int) -> frozenset[str]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(";".join(_MIGRATIONS[:version]))
        return damage.tables(connection)


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
