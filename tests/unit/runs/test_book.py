"""Runs in the database: what was written is there again, and a full disk only delays it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from neffd.runs import book
from neffd.runs.book import Book
from neffd.runs.identity import PRIVATE, UNKNOWN_UID, Identity
from neffd.runs.recorder import ASKED, COMPILED, FETCHED, IDLE_S, LOCAL, Recorder, Run
from neffd.store.database import Database
from tests.harness import entries
from tests.unit.clock import Clock

KEY = "RUN_" + "a" * 32
ROOT = "/cache"
NAMES = [entries.module(number) for number in range(4)]


class Kept:
    """A book over a database that can be opened again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock(1e9)
        self.open()

    def open(self) -> None:
        self.database = Database(self.folder)
        self.book = Book(self.database, self.clock)
        self.recorder = Recorder(self.clock, self.clock)

    def again(self) -> None:
        self.database.close()
        self.open()

    def run(
        self,
        instance: str = "one",
        run_key: str = KEY,
        *,
        private: bool = False,
        ingredients: Mapping[str, Any] = MappingProxyType({"version": 1}),
        uid: int = 1000,
    ) -> Run:
        return self.recorder.joined(Identity(instance, run_key, dict(ingredients), private, uid=uid))[0]

    def use(self, run: Run, *numbers: int, how: str = LOCAL, compile_s: float | None = None) -> None:
        for number in numbers:
            self.recorder.used(run, ROOT, NAMES[number], how, compile_s=compile_s)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(tmp_path)
    yield kept
    kept.database.close()


LLAMA = {"model": {"id": None, "type": "llama", "config": {"hidden_size": 8}}}


def test_runs_that_met_no_graph_do_not_hide_what_is_known_of_their_key(kept: Kept) -> None:
    """Such as those of a job that is started again and again, and dies while it loads its data."""
    run = kept.run("good")
    kept.use(run, 0)
    asyncio.run(kept.book.write([run, *(kept.run(f"vain-{number}") for number in range(20))]))
    (known,) = asyncio.run(kept.book.with_key(KEY))
    assert [module.key for module in known.modules] == [NAMES[0].key]


def test_the_latest_run_of_each_key_of_a_model(kept: Kept) -> None:
    for number, (run_key, batch_size) in enumerate([("b", 2), ("c", 4), ("c", 4), ("d", 8)]):
        run = kept.run(f"{number}", "RUN_" + run_key * 32, ingredients={**LLAMA, "shapes": {"batch_size": batch_size}})
        kept.use(run, *([number] if run_key != "d" else []))
        asyncio.run(kept.book.write([run]))
    other = kept.run("other", "RUN_" + "e" * 32, ingredients={"model": {"id": "org/other", "type": "llama"}})
    kept.use(other, 3)
    asyncio.run(kept.book.write([other]))
    found = asyncio.run(kept.book.of_model(LLAMA))
    assert [(one.ingredients["shapes"]["batch_size"], one.modules[0].key) for one in found] == [
        (4, NAMES[2].key),
        (2, NAMES[0].key),
    ]
    damage = "UPDATE runs SET ingredients = '{' WHERE run_key LIKE 'RUN_c%'"
    kept.database.run_blocking(lambda connection: connection.execute(damage))
    assert len(asyncio.run(kept.book.of_model(LLAMA))) == 1
    for model in ({}, "llama", {"type": ["llama"]}):
        assert asyncio.run(kept.book.of_model({"model": model})) == []


def test_an_open_run_goes_on_in_the_next_life(kept: Kept) -> None:
    run = kept.run()
    kept.use(run, 2, 0)
    kept.use(run, 1, how=FETCHED, compile_s=5.0)
    asyncio.run(kept.book.write([run]))
    assert not run.changed
    kept.again()
    (again,) = asyncio.run(kept.book.open_runs(kept.clock()))
    assert again.identity == run.identity
    assert again.modules == run.modules
    kept.recorder.resume([again])
    kept.use(again, 3)
    kept.recorder.end(again)
    asyncio.run(kept.book.write([again]))
    assert asyncio.run(kept.book.open_runs(kept.clock())) == []
    (manifest,) = asyncio.run(kept.book.with_key(KEY))
    assert [module.key for module in manifest.modules] == [NAMES[number].key for number in (2, 0, 1, 3)]


def test_a_run_whose_ingredients_are_damaged_is_lost_alone(kept: Kept) -> None:
    for instance in ("one", "two"):
        run = kept.run(instance)
        kept.use(run, 1)
        asyncio.run(kept.book.write([run]))
    damaged = "UPDATE runs SET ingredients = '{\"version\": ' WHERE instance LIKE '%one'"
    assert kept.database.run_blocking(lambda connection: connection.execute(damaged).rowcount) == 1
    with pytest.raises(sqlite3.DatabaseError):
        asyncio.run(kept.book.open_runs(kept.clock()))
    for _ in range(2):
        kept.again()
        assert [run.identity.instance for run in asyncio.run(kept.book.open_runs(kept.clock()))] == ["two"]


def test_the_same_name_again_is_another_run(kept: Kept) -> None:
    for number in range(2):
        run = kept.run()
        kept.use(run, number)
        kept.recorder.end(run)
        asyncio.run(kept.book.write([run]))
    found = asyncio.run(kept.book.with_key(KEY))
    assert [[module.key for module in manifest.modules] for manifest in found] == [[NAMES[1].key], [NAMES[0].key]]


def test_two_users_with_one_name_have_two_runs_also_in_the_next_life(kept: Kept) -> None:
    ours, theirs = kept.run(uid=1000), kept.run(uid=1001)
    kept.use(ours, 0)
    kept.use(theirs, 1)
    asyncio.run(kept.book.write([ours, theirs]))
    kept.again()
    kept.recorder.resume(asyncio.run(kept.book.open_runs(kept.clock())))
    assert {run.identity.uid: set(run.modules) for run in kept.recorder} == {1000: {NAMES[0]}, 1001: {NAMES[1]}}
    kept.recorder.end(kept.run(uid=1001))
    asyncio.run(kept.book.write([theirs]))
    assert list(kept.run(uid=1000).modules) == [NAMES[0]]


def test_a_run_from_before_names_had_users_is_nobodys_and_ends_by_itself(kept: Kept) -> None:
    def insert(connection: sqlite3.Connection) -> None:
        rows = [(name, KEY, "{}", kept.clock(), kept.clock()) for name in ("one", "torchrun:abc:10.0.0.1:29400")]
        connection.executemany(
            "INSERT INTO runs (instance, run_key, ingredients, is_private, began_at, heard_at) VALUES (?,?,?,0,?,?)",
            rows,
        )

    kept.database.run_blocking(insert)
    kept.recorder.resume(asyncio.run(kept.book.open_runs(kept.clock())))
    assert {(run.identity.uid, run.identity.instance) for run in kept.recorder} == {
        (UNKNOWN_UID, "one"),
        (UNKNOWN_UID, "torchrun:abc:10.0.0.1:29400"),
    }
    ours = kept.run("one")
    assert not ours.modules
    kept.clock.pass_s(IDLE_S + 1)
    assert {run.identity.uid for run in kept.recorder.over()} == {UNKNOWN_UID, 1000}
    asyncio.run(kept.book.write(list(kept.recorder)))


def test_no_name_that_a_client_says_is_that_of_a_run_that_has_ended(kept: Kept) -> None:
    """One that was to be written anew would keep all others from it."""
    for instance in ("one", "one 1", "one 2", "one", "one 1", "one"):
        run = kept.run(instance)
        kept.use(run, 0)
        kept.recorder.end(run)
        asyncio.run(kept.book.write([run]))
    assert len(asyncio.run(kept.book.with_key(KEY, 100))) == 6


def test_what_could_not_be_written_is_written_later(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    run = kept.run()
    kept.use(run, 0)

    def full(connection: sqlite3.Connection, *_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(book, "_write", full)
        with pytest.raises(sqlite3.OperationalError):
            asyncio.run(kept.book.write([run]))
    assert (run.row, run.changed) == (None, {NAMES[0]})
    asyncio.run(kept.book.write([run]))
    assert len(asyncio.run(kept.book.open_runs(kept.clock()))) == 1


def test_runs_of_long_ago_are_not_resumed_and_too_many_are_dropped(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "KEPT_RUNS", 3)
    for number in range(5):
        run = kept.run(str(number))
        kept.use(run, 0)
        if number < 4:
            kept.recorder.end(run)
        asyncio.run(kept.book.write([run]))
    assert len(asyncio.run(kept.book.with_key(KEY, 100))) == 3
    assert len(asyncio.run(kept.book.open_runs(kept.clock()))) == 1
    kept.clock.pass_s(7 * 3600)
    assert asyncio.run(kept.book.open_runs(kept.clock())) == []


def test_a_user_with_many_runs_drops_its_own(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "KEPT_RUNS", 4)
    for uid, numbers in ((1, "ab"), (2, "cdefg")):
        for instance in numbers:
            run, _ = kept.recorder.joined(Identity(instance, KEY, {"version": 1}, uid=uid))
            kept.use(run, 0)
            kept.recorder.end(run)
            asyncio.run(kept.book.write([run]))
    assert _names(kept) == ["1:a", "1:b", "2:f", "2:g"]
    run, _ = kept.recorder.joined(Identity("h", KEY, {"version": 1}, uid=3))
    asyncio.run(kept.book.write([run]))
    assert _names(kept) == ["1:b", "2:f", "2:g", "3:h"]


def test_many_modules_are_dropped_with_the_runs_of_whoever_has_the_most(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book, "KEPT_MODULES", 8)
    for uid, numbers in ((1, "a"), (2, "bcd")):
        for instance in numbers:
            run, _ = kept.recorder.joined(Identity(instance, KEY, {"version": 1}, uid=uid))
            for number in range(3):
                kept.use(run, number)
            kept.recorder.end(run)
            asyncio.run(kept.book.write([run]))
    assert _names(kept) == ["1:a", "2:d"]


def test_however_many_runs_of_a_key_one_user_has_the_others_count_too(kept: Kept) -> None:
    for number, uid in ((1, 1), (2, 1), (3, 2), (3, 2), (3, 2)):
        run = kept.run(str(len(kept.recorder)), uid=uid)
        kept.use(run, number)
        asyncio.run(kept.book.write([run]))
    found = asyncio.run(kept.book.with_key(KEY, 3))
    assert [[module.key for module in one.modules] for one in found] == [[NAMES[number].key] for number in (3, 2, 3)]


def _names(kept: Kept) -> list[str]:
    query = "SELECT instance FROM runs ORDER BY instance"
    names = asyncio.run(kept.database.run(lambda connection: connection.execute(query).fetchall()))
    return [name for (name,) in names]


def test_time_saved_counts_each_run_once(kept: Kept) -> None:
    first, second = kept.run("first"), kept.run("second")
    kept.use(first, 1, how=FETCHED, compile_s=40.0)
    kept.use(first, 2, how=COMPILED, compile_s=7.0)
    kept.use(second, 3, how=FETCHED, compile_s=5.0)
    asyncio.run(kept.book.write([first, second]))
    assert asyncio.run(kept.book.saved_s()) == 45.0
    assert asyncio.run(kept.book.saved_s(without=[second])) == 40.0


def test_whose_modules_are_is_known_for_longer_than_their_runs(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, said = kept.run("secret", private=True), kept.run("said", ingredients={"model": {"id": "org/model"}})
    other = kept.run("other", ingredients={"inferred": {"command": "ab"}})
    for run, number in ((secret, 0), (said, 0), (said, 1), (other, 2)):
        kept.use(run, number, how=ASKED)
    asyncio.run(kept.book.write([secret, said, other]))
    owned = {(NAMES[0], PRIVATE), (NAMES[0], "org/model"), (NAMES[1], "org/model")}
    assert set(asyncio.run(kept.book.owners())) == owned
    # Waiting to be sent, or in a cache directory: whose it is must not be forgotten with the run.
    kept.database.run_blocking(
        lambda connection: connection.execute(
            "INSERT INTO outbox (root, namespace, key, folder, provenance, size_bytes, file_count, existing, queued_at)"
            " VALUES ('/cache', ?, ?, '', '', 1, 1, 0, 0)",
            NAMES[0],
        )
    )
    monkeypatch.setattr(book, "KEPT_RUNS", 0)
    for run in (secret, said, other):
        kept.recorder.end(run)
    asyncio.run(kept.book.write([secret, said, other]))
    assert set(asyncio.run(kept.book.owners())) == {(NAMES[0], PRIVATE), (NAMES[0], "org/model")}


def test_what_becomes_private_later_is_private_from_the_beginning(kept: Kept) -> None:
    run = kept.run("one")
    kept.use(run, 0)
    asyncio.run(kept.book.write([run]))
    assert kept.run("one", private=True) is run
    asyncio.run(kept.book.write([run]))
    assert (NAMES[0], PRIVATE) in asyncio.run(kept.book.owners())
    (again,) = asyncio.run(kept.book.open_runs(kept.clock()))
    assert again.identity.is_private


def test_what_happens_during_a_write_is_not_lost(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for when it is written, compiled while that goes on."""
    run = kept.run()
    kept.use(run, 0, how=ASKED)
    write = book._write

    def slow(connection: sqlite3.Connection, change: book._Change, now: float) -> int:
        kept.recorder.compiled(ROOT, NAMES[0], 9.0)
        return write(connection, change, now)

    with monkeypatch.context() as patched:
        patched.setattr(book, "_write", slow)
        asyncio.run(kept.book.write([run]))
    assert run.changed == {NAMES[0]}
    asyncio.run(kept.book.write([run]))
    (again,) = asyncio.run(kept.book.open_runs(kept.clock()))
    assert (again.modules[NAMES[0]].how, again.modules[NAMES[0]].compile_s) == (COMPILED, 9.0)


def test_a_run_that_goes_on_outlives_any_number_of_others(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "KEPT_RUNS", 2)
    server = kept.recorder.joined(Identity("server", KEY, {"version": 1}), 1)[0]
    kept.use(server, 0)
    asyncio.run(kept.book.write([server]))
    for number in range(4):
        job = kept.run(str(number))
        kept.use(job, 1)
        kept.recorder.end(job)
        asyncio.run(kept.book.write([job]))
    kept.use(server, 2)
    asyncio.run(kept.book.write([server]))
    (again,) = asyncio.run(kept.book.open_runs(kept.clock()))
    assert list(again.modules) == [NAMES[0], NAMES[2]]
    # Nothing was heard of it for a day, and its row is gone: what it does then must stop nobody else.
    kept.clock.pass_s(86_400)
    asyncio.run(kept.book.write([kept.run("later"), kept.run("last")]))
    kept.use(server, 3)
    asyncio.run(kept.book.write([server, kept.run("after")]))
