"""The index of many entries: asked and written in pieces, so that nobody waits long for the database."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from neff.keys import ModuleName
from neffd.store import index as indexing
from neffd.store.database import Database
from neffd.store.index import EXISTING, LOCAL, Index
from neffd.store.root import FileFacts
from tests.harness import entries

ROOT, OTHER = Path("/cache"), Path("/other")
NEFF = FileFacts(1, 2, 3, 0, 0)
NAMES = [
    entries.module(number, namespace)
    for number in range(10)
    for namespace in (entries.NAMESPACE, entries.OLD_NAMESPACE)
]
READY = [(name, NEFF) for name in NAMES]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path)
    yield database
    database.close()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "_AT_ONCE", 3)
    monkeypatch.setattr(indexing, "_MOST_VALUES", 4)


def noted(index: Index, root: Path = ROOT) -> dict[ModuleName, str]:
    return {name: known.origin for name, known in index.known_of(root, NAMES).items()}


def test_what_is_known_of_many(database: Database) -> None:
    index = Index(database)
    for name in NAMES[::2]:
        index.note_blocking(ROOT, name, LOCAL, NEFF, {})
    index.note_blocking(OTHER, NAMES[1], LOCAL, NEFF, {})
    assert index.known_of(ROOT, []) == {}
    assert noted(index) == dict.fromkeys(NAMES[::2], LOCAL)
    assert index.known(ROOT, NAMES[1]) is None
    assert noted(index, OTHER) == {NAMES[1]: LOCAL}


def test_a_first_start_that_is_cut_off_is_done_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(database)
    index.note_blocking(ROOT, NAMES[-1], LOCAL, NEFF, {})
    real, left = database.run_blocking, iter(range(4))

    def dies(work: Callable[[sqlite3.Connection], Any]) -> Any:
        next(left)
        return real(work)

    with monkeypatch.context() as patch:
        patch.setattr(database, "run_blocking", dies)
        with pytest.raises(StopIteration):
            index.baseline_blocking(ROOT, READY)
    assert len(noted(index)) == 12 + 1
    assert not index.has_baseline(ROOT)
    index.baseline_blocking(ROOT, READY)
    assert noted(index) == {**dict.fromkeys(NAMES, EXISTING), NAMES[-1]: LOCAL}
    assert index.has_baseline(ROOT)


def test_what_could_not_be_read_at_the_first_start(database: Database) -> None:
    index = Index(database)
    assert index.unread_at_baseline(ROOT) == (0.0, frozenset())
    before = time.time()
    index.baseline_blocking(ROOT, [], [str(NAMES[0]), NAMES[1].namespace])
    index.baseline_blocking(OTHER, [])
    noted_at, unread = index.unread_at_baseline(ROOT)
    assert before <= noted_at <= time.time()
    assert unread == {str(NAMES[0]), NAMES[1].namespace}
    assert index.unread_at_baseline(OTHER)[1] == frozenset()


def test_what_was_noted_before_the_machine_was_started_again(database: Database) -> None:
    before, after = Index(database, boot="before"), Index(database, boot="after")
    for name in NAMES[:8]:
        before.note_blocking(ROOT, name, LOCAL, NEFF, {})
    after.note_blocking(ROOT, NAMES[8], LOCAL, NEFF, {})
    before.note_blocking(OTHER, NAMES[9], LOCAL, NEFF, {})
    assert before.noted_before(ROOT).keys() == {NAMES[8]}
    assert after.noted_before(ROOT).keys() == set(NAMES[:8])
