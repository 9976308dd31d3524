"""What counts as made here, and what was there before: also where the first look could not see it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neff.keys import ModuleName
from neffd.publish.audience import Audience
from neffd.publish.survey import Survey
from neffd.publish.watch import Watch
from neffd.store import aftercrash
from neffd.store.database import Database
from neffd.store.index import Index
from neffd.store.root import CacheRoot
from tests.harness import entries
from tests.unit.store.as_user import User, needs_root

OLD, OPEN, NEW, COPIED = map(entries.module, range(4))
_NEVER_OLD = Audience(frozenset({"team"}), frozenset(), existing=False)


@pytest.fixture
def home() -> Iterator[Path]:
    """Where another user may write; not below a folder of pytest's, which is root's alone."""
    place = Path(tempfile.mkdtemp(prefix="neffd-survey-"))
    place.chmod(0o777)
    yield place
    shutil.rmtree(place)


def _write(root: CacheRoot, name: ModuleName, *, after: float = 0.0) -> Path:
    """With times that are later than `after`: a file system's clock is some milliseconds behind."""
    while True:
        folder = entries.write(root.path, name, entries.files(name))
        if (folder / "model.neff").stat().st_mtime > after:
            return folder


def _started(root: CacheRoot, database: Database, boot: str = "") -> Survey:
    return Survey(root, Index(database, boot=boot), Watch(lambda path, is_gone: None, lambda: None))


def _sent(survey: Survey) -> list[str]:
    """The entries that are for somebody."""
    names = list(survey.list_all(has_lost_events=False).names)
    found = survey.look_at(names, asking_index=True)
    return sorted(str(seen.name) for seen in found if seen.neff and _NEVER_OLD.of(seen.known, seen.neff))


def _closed_at_the_first_start(home: Path, what: str) -> Any:
    root, database = CacheRoot(home / "cache"), Database(home / "state")
    folder = _write(root, OLD)
    _write(root, OPEN)
    closed = {"entry": folder, "namespace": folder.parent, "directory": root.path}[what]
    closed.chmod(0)
    told = [str(error) for error in _started(root, database).list_all(has_lost_events=False).closed]
    closed.chmod(0o755)
    (folder / "model.neff").chmod(0o644)  # as the advised command does, all over it
    _write(root, NEW, after=time.time())
    os.utime(_write(root, COPIED) / "model.neff", (1e9, 1e9))
    outcomes = [_sent(_started(root, database)) for _ in range(2)]
    database.close()
    return told, outcomes


@needs_root
@pytest.mark.parametrize(
    ("what", "sent"),
    [("entry", [NEW, COPIED]), ("namespace", [NEW]), ("directory", [NEW])],
    ids=["entry", "namespace", "directory"],
)
def test_what_could_not_be_read_at_the_first_start_is_not_taken_for_new_later(
    home: Path, what: str, sent: list[ModuleName]
) -> None:
    told, outcomes = User(61_003, 61_003).run(lambda: _closed_at_the_first_start(home, what))
    assert len(told) == (what != "entry"), "of an entry whoever looks at it tells"
    assert outcomes == [sorted(map(str, sent))] * 2


def _closed_at_the_first_look_after_a_crash(home: Path, what: str, starts_anew: bool) -> Any:
    root, database = CacheRoot(home / "cache"), Database(home / "state")
    _started(root, database, "before").list_all(has_lost_events=False)
    torn, sound = _write(root, OLD), _write(root, OPEN)
    os.truncate(torn / "model.neff", 8192)
    closed = {
        "files": [torn / "model.neff", sound / "model.neff"],
        "entries": [torn, sound],
        "namespace": [torn.parent],
        "directory": [root.path],
    }[what]
    for path in closed:
        path.chmod(0)
    survey = _started(root, database, "after")
    first = survey.list_all(has_lost_events=False).torn
    if starts_anew:
        survey = _started(root, database, "after")
        survey.list_all(has_lost_events=False)
    for path in closed:
        path.chmod(0o755)
    looks = [
        {str(seen.name): [seen.torn, seen.neff is not None] for seen in survey.look_at([OLD, OPEN], asking_index=True)}
        for _ in range(2)
    ]
    database.close()
    return first, looks, torn.exists()


@needs_root
@pytest.mark.parametrize("what", ["files", "entries", "namespace", "directory"])
@pytest.mark.parametrize("starts_anew", [False, True], ids=["by the same daemon", "by the next"])
def test_what_could_not_be_read_after_a_crash_is_looked_through_when_it_can_be(
    home: Path, what: str, starts_anew: bool
) -> None:
    first, looks, is_there = User(61_003, 61_003).run(
        lambda: _closed_at_the_first_look_after_a_crash(home, what, starts_anew)
    )
    assert (first, is_there) == ({}, False)
    why = looks[0][str(OLD)][0]
    assert why.startswith("model.neff has 8192 of ")
    assert looks == [
        {str(OLD): [why, False], str(OPEN): [None, True]},
        {str(OLD): [None, False], str(OPEN): [None, True]},
    ]


def test_what_was_looked_through_at_last_is_forgotten(home: Path) -> None:
    root, database = CacheRoot(home / "cache"), Database(home / "state")
    index = Index(database)
    index.note_boot(root.path, time.time() + 60.0, {OLD.namespace})
    for name in (OLD, OPEN):
        _write(root, name)
    (root.entry(OPEN) / "model.done").unlink()
    survey = _started(root, database, index.boot)
    names = list(survey.list_all(has_lost_events=False).names)
    survey.list_all(has_lost_events=False)
    survey.look_at([OLD], asking_index=True)
    survey.list_all(has_lost_events=False)
    assert index.unread_after_crash(root.path)[1] == {OLD.namespace}, "one was not looked at"
    survey.look_at(names, asking_index=True)
    survey.list_all(has_lost_events=False)
    assert index.unread_after_crash(root.path)[1] == set()
    database.close()


def test_what_was_made_after_the_look_met_no_crash(home: Path) -> None:
    root, database = CacheRoot(home / "cache"), Database(home / "state")
    index = Index(database)
    index.note_boot(root.path, time.time() - 60.0, {NEW.namespace})
    late = aftercrash.Late(root, index, "")
    os.truncate(_write(root, NEW) / "model.neff", 8192)
    assert late.look_through(NEW) is None
    assert root.is_ready(NEW)
    database.close()
