"""The daemon's one SQLite file: schema, durability, and the thread that all access goes through."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from neffd.errors import NeffdError

T = TypeVar("T")

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
)


class Database:
    """A durable SQLite file that one process owns.

    Every work is synced before it is reported done (`synchronous=FULL`); all of them run on one thread, and those that
    wait together are committed together.
    """

    def __init__(self, state_dir: Path) -> None:
        """Open or create `state_dir/neffd.db`; raises NeffdError if another daemon owns it or it cannot be used."""
        self.path = state_dir / "neffd.db"
        try:
            state_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
            self._lock_fd = os.open(state_dir / "neffd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise NeffdError(
                "state-dir",
                f"state directory {state_dir} cannot be used: {error.strerror}",
                "make it writable or set state_dir",
            ) from None
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock_fd)
            raise NeffdError(
                "already-running",
                f"another neffd uses the state directory {state_dir}",
                "stop it; a second daemon needs its own state_dir, socket, http and cache_dirs",
            ) from None
        self._waiting: deque[tuple[Callable[[sqlite3.Connection], Any], Future[Any]]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="neffd-db")
        try:
            self._connection = self._thread.submit(self._open).result()
        except (sqlite3.Error, NeffdError) as error:
            self._thread.shutdown()
            os.close(self._lock_fd)
            if isinstance(error, NeffdError):
                raise
            raise NeffdError(
                "database", f"{self.path} cannot be opened: {error}", "move it aside to start afresh"
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

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > len(_MIGRATIONS):
                raise NeffdError(
                    "newer-database",
                    f"{self.path} was made by a newer neffd (schema {version}, this one knows {len(_MIGRATIONS)})",
                    "run that version again; moving the file aside would forget what still waits for a remote",
                )
            for number, script in enumerate(_MIGRATIONS[version:], start=version + 1):
                connection.executescript(f"BEGIN; {script}; PRAGMA user_version={number}; COMMIT;")
        except BaseException:
            connection.close()
            raise
        return connection

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
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            for _, future in batch:
                future.set_exception(error)
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
            return None, error
        finally:
            if self._connection.in_transaction:
                self._connection.execute("RELEASE work")


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
