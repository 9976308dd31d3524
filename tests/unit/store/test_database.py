"""The database: one owner, all or nothing, and clear words about a file that cannot be used."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from neffd.errors import NeffdError
from neffd.store.database import Database
from tests.harness.daemon import python_path

_NOTE = "INSERT INTO meta VALUES (?, ?)"
_DIE_INSIDE = f"""
import os, signal, sys
from pathlib import Path
from neffd.store.database import Database

def half_a_transaction(connection):
    connection.execute({_NOTE!r}, ("half", "x"))
    os.kill(os.getpid(), signal.SIGKILL)

database = Database(Path(sys.argv[1]))
database.run_blocking(lambda connection: connection.execute({_NOTE!r}, ("whole", "x")))
database.run_blocking(half_a_transaction)
"""


def _names(database: Database) -> list[str]:
    rows = database.run_blocking(lambda connection: connection.execute("SELECT name FROM meta").fetchall())
    return [name for (name,) in rows]


def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    first = Database(tmp_path)
    try:
        with pytest.raises(NeffdError, match="another neffd") as refusal:
            Database(tmp_path)
        assert refusal.value.reference == "already-running"
    finally:
        first.close()
    Database(tmp_path).close()


def test_a_file_of_a_newer_version_is_refused_and_kept(tmp_path: Path) -> None:
    Database(tmp_path).close()
    with sqlite3.connect(tmp_path / "neffd.db") as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    before = (tmp_path / "neffd.db").read_bytes()
    with pytest.raises(NeffdError, match="newer neffd") as refusal:
        Database(tmp_path)
    assert "run that version" in refusal.value.hint
    assert (tmp_path / "neffd.db").read_bytes() == before


def test_an_empty_file_is_brought_up_to_date(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "neffd.db").close()
    for _ in range(2):
        database = Database(tmp_path)
        tables = database.run_blocking(
            lambda connection: connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        )
        assert {"meta", "entries", "outbox", "deliveries", "claims"} <= {name for (name,) in tables}
        database.close()


def test_a_state_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NeffdError) as refusal:
        Database(tmp_path / "file" / "state")
    assert refusal.value.reference == "state-dir"


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path)

    def fail(connection: sqlite3.Connection) -> None:
        connection.execute(_NOTE, ("half", "x"))
        raise KeyError

    with pytest.raises(KeyError):
        database.run_blocking(fail)
    assert _names(database) == []
    database.close()


def test_a_kill_in_the_middle_of_a_transaction_leaves_nothing(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": python_path()}
    dead = subprocess.run([sys.executable, "-c", _DIE_INSIDE, str(tmp_path)], env=environ, timeout=30, check=False)
    assert dead.returncode == -9
    database = Database(tmp_path)
    assert _names(database) == ["whole"]
    database.close()


async def test_the_loop_is_never_blocked(tmp_path: Path) -> None:
    database = Database(tmp_path)
    with pytest.raises(AssertionError):
        _names(database)
    await database.run(lambda connection: connection.execute(_NOTE, ("whole", "x")))
    database.close()


async def test_works_that_wait_together_are_committed_together(tmp_path: Path) -> None:
    database = Database(tmp_path)
    seen: list[str] = []
    await database.run(lambda connection: connection.set_trace_callback(seen.append))
    works = [database.run(_insert(str(number))) for number in range(50)]
    await asyncio.gather(*works)
    commits = seen.count("COMMIT")
    assert await database.run(lambda connection: connection.execute("SELECT COUNT(*) FROM meta").fetchone()) == (50,)
    await asyncio.to_thread(database.close)
    assert commits < 25


async def test_one_that_fails_takes_no_other_with_it(tmp_path: Path) -> None:
    database = Database(tmp_path)

    def insert_and_fail(connection: sqlite3.Connection) -> None:
        _insert("half")(connection)
        raise LookupError("no")

    good, bad, late = await asyncio.gather(
        database.run(_insert("good")),
        database.run(insert_and_fail),
        database.run(_insert("late")),
        return_exceptions=True,
    )
    assert isinstance(bad, LookupError)
    assert good is late is None
    names = await database.run(lambda connection: connection.execute("SELECT name FROM meta ORDER BY name").fetchall())
    assert names == [("good",), ("late",)]
    await asyncio.to_thread(database.close)


def _insert(name: str) -> Callable[[sqlite3.Connection], None]:
    def write(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO meta VALUES (?, '')", (name,))

    return write
