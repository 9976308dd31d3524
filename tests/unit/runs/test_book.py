"""Runs in the database: what was written is there again, and a full disk only delays it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from neffd.runs import book
from neffd.runs.book import Book
from neffd.runs.identity import Identity
from neffd.runs.recorder import ASKED, COMPILED, FETCHED, LOCAL, Recorder, Run
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

    def run(self, instance: str = "one", run_key: str = KEY, *, private: bool = False) -> Run:
        return self.recorder.joined(Identity(instance, run_key, {"version": 1}, private))[0]

    def use(self, run: Run, *numbers: int, how: str = LOCAL, compile_s: float | None = None) -> None:
        for number in numbers:
            self.recorder.used(run, ROOT, NAMES[number], how, compile_s=compile_s)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(tmp_path)
    yield kept
    kept.database.close()


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


def test_the_same_name_again_is_another_run(kept: Kept) -> None:
    for number in range(2):
        run = kept.run()
        kept.use(run, number)
        kept.recorder.end(run)
        asyncio.run(kept.book.write([run]))
    found = asyncio.run(kept.book.with_key(KEY))
    assert [[module.key for module in manifest.modules] for manifest in found] == [[NAMES[1].key], [NAMES[0].key]]


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
        asyncio.run(kept.book.write([run]))
    assert len(asyncio.run(kept.book.with_key(KEY, 100))) == 3
    kept.clock.pass_s(7 * 3600)
    assert asyncio.run(kept.book.open_runs(kept.clock())) == []


def test_private_modules_and_time_saved(kept: Kept) -> None:
    secret, public = kept.run("secret", private=True), kept.run("public")
    kept.use(secret, 0, how=ASKED)
    kept.use(public, 1, how=FETCHED, compile_s=40.0)
    kept.use(public, 2, how=COMPILED, compile_s=7.0)
    asyncio.run(kept.book.write([secret, public]))
    assert asyncio.run(kept.book.private_names()) == {NAMES[0]}
    assert asyncio.run(kept.book.saved_s()) == 40.0
