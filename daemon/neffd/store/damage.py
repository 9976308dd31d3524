"""A damaged database file: noticed, kept aside, and what can be read of it carried over. Blocking."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# What the surroundings are to blame for.
_CIRCUMSTANCES = ("locked", "full", "readonly", "unable to open", "disk I/O error", "out of memory", "interrupted")
_WORDS = ("malformed", "not a database", "disk image", "file is encrypted", "Could not decode")
# The second one where SQLite quotes the broken file in its message, and that is no text.
ERRORS = (sqlite3.DatabaseError, UnicodeDecodeError)
_AGAIN_S = 0.01
# By table and column: what reads a value, or raises Damaged.
Parsers = Mapping[str, Mapping[str, Callable[[Any], object]]]


class Damaged(sqlite3.DatabaseError):
    """What is in the file is not what was written there."""


def is_damage(error: BaseException) -> bool:
    """Whether SQLite says that the file itself is broken, rather than busy, full or not to be written."""
    says_so = isinstance(error, sqlite3.DatabaseError) and any(word in str(error) for word in _WORDS)
    return says_so or isinstance(error, (Damaged, UnicodeDecodeError))


def may_be_written(error: BaseException) -> bool:
    """Whether what failed to be committed may be on disk all the same: it was written, and the sync failed."""
    return isinstance(error, sqlite3.OperationalError) and "disk I/O error" in str(error)


def is_damage_at_opening(error: BaseException, path: Path) -> bool:
    """The same of a file that was just opened: then everything counts that the surroundings are not to blame for."""
    if not isinstance(error, sqlite3.DatabaseError):
        return isinstance(error, UnicodeDecodeError)
    can_write = os.access(path, os.W_OK) and not os.statvfs(path).f_flag & os.ST_RDONLY
    blamed = [word for word in _CIRCUMSTANCES if word in str(error) and not (word == "readonly" and can_write)]
    return not blamed


def tables(connection: sqlite3.Connection) -> frozenset[str]:
    """Names of the tables, without SQLite's own."""
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return frozenset(name for (name,) in names if not name.startswith("sqlite_"))


def check(connection: sqlite3.Connection, limit_s: float | None) -> bool:
    """Look through the file; false if `limit_s` was over first. Raises sqlite3.DatabaseError where it is damaged."""
    if limit_s is not None and limit_s <= 0:
        return False
    with _interrupted_after(connection, limit_s):
        try:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError as error:
            if "interrupted" in str(error):
                return False
            raise
    if found != "ok":
        raise Damaged(" ".join(str(found).split()))
    return True


@contextlib.contextmanager
def _interrupted_after(connection: sqlite3.Connection, limit_s: float | None) -> Iterator[None]:
    """Not by SQLite's progress handler: that waits for the interpreter again and again."""
    if limit_s is None:
        yield
        return
    is_over = threading.Event()

    def interrupt() -> None:
        is_late = not is_over.wait(limit_s)
        while is_late:  # more than once: before its first step a query does not hear it
            connection.interrupt()
            is_late = not is_over.wait(_AGAIN_S)

    thread = threading.Thread(target=interrupt, name="neffd-check-limit")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()  # what comes next must not be interrupted


def read_all(connection: sqlite3.Connection, parsers: Parsers) -> None:
    """Read every row: text that is none passes every other check. Raises sqlite3.DatabaseError."""
    for table in tables(connection):
        # An open cursor would keep the file open, and its connection remove another file's log when it ends.
        with contextlib.closing(connection.execute(f"SELECT * FROM {table}")) as rows:
            names = [column[0] for column in rows.description]
            for row in rows:
                _parse(row, names, parsers.get(table, {}))


def _parse(row: Sequence[Any], names: Sequence[str], parsers: Mapping[str, Callable[[Any], object]]) -> None:
    for name, value in zip(names, row, strict=True):
        if value is not None and name in parsers:
            parsers[name](value)


def keep_aside(path: Path) -> Path:
    """Rename the file and what SQLite keeps beside it; returns its new path."""
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    # The file itself last: cut off in between, the next start finds it, and it is still damaged.
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    return aside


def salvage(damaged: Path, into: sqlite3.Connection, parsers: Parsers) -> frozenset[str]:
    """Copy what can be read, as one transaction; returns the tables of which all rows came over."""
    with contextlib.closing(sqlite3.connect(f"{damaged.as_uri()}?mode=ro", uri=True)) as source:
        into.execute("PRAGMA foreign_keys=OFF")
        into.execute("BEGIN IMMEDIATE")
        whole = {table for table in sorted(tables(into)) if _copy(source, into, table, parsers)}
        # What lost its other half is of no use.
        into.execute("DELETE FROM deliveries WHERE outbox_id NOT IN (SELECT id FROM outbox)")
        into.execute("DELETE FROM outbox WHERE id NOT IN (SELECT outbox_id FROM deliveries)")
        into.execute("DELETE FROM meta WHERE name = 'journal-complete'")  # some may be known to its folder alone
        into.execute("COMMIT")
        into.execute("PRAGMA foreign_keys=ON")
    return frozenset(whole)


def _copy(source: sqlite3.Connection, into: sqlite3.Connection, table: str, parsers: Parsers) -> bool:
    """Rows up to the first that cannot be read, without those that cannot be parsed; whether that was all."""
    is_all = True
    try:
        rows = source.execute(f"SELECT * FROM {table}")
        columns = [column[0] for column in rows.description]
        ours = {row[1] for row in into.execute(f"PRAGMA table_info({table})")}
        if not set(columns) <= ours:
            return False
        marks = ",".join("?" * len(columns))
        statement = f"INSERT OR IGNORE INTO {table} ({','.join(columns)}) VALUES ({marks})"
        for row in rows:
            if not _can_be_parsed(row, columns, parsers.get(table, {})):
                is_all = False
                continue
            with contextlib.suppress(sqlite3.IntegrityError):  # garbage where something has to be
                into.execute(statement, row)
    except ERRORS:
        return False
    return is_all


def _can_be_parsed(row: Sequence[Any], names: Sequence[str], parsers: Mapping[str, Callable[[Any], object]]) -> bool:
    try:
        _parse(row, names, parsers)
    except Damaged:
        return False
    return True
