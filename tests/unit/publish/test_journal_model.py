"""The journal beside a model of it: a state machine on a real file, with restarts and a disk that fails."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from neff.keys import ModuleName
from neffd.publish.batch import Item
from neffd.publish.journal import Journal, Taken
from neffd.remotes.provenance import FileDigest, Provenance
from neffd.store.database import Database
from neffd.store.index import LOCAL, Index
from neffd.store.root import FileFacts
from tests.harness import entries

REMOTES = ("one", "two", "three")
_GONE = "files-lost"  # a newer copy of the entry takes its place
_REASONS = (_GONE, "public-repo", "too-large")
_CHANGES = ("INSERT", "DELETE", "UPDATE")
_FULL = (
    "CREATE TEMP TRIGGER IF NOT EXISTS full_{0} BEFORE {0} ON deliveries BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
)
_ROOM = "DROP TRIGGER IF EXISTS full_{0}"
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@dataclass
class Row:
    """What has to be in the journal; a reason where a delivery is parked."""

    item: Item
    name: ModuleName
    folder: Path
    deliveries: dict[str, str | None] = field(default_factory=dict)


class JournalMachine(RuleBasedStateMachine):
    """Drives a journal, and keeps in a plain dict what must be in it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="neffd-journal-", dir=_MEMORY))
        self.model: dict[int, Row] = {}
        self.newest: dict[ModuleName, int] = {}
        self.count = 0
        self.is_full = False
        self.open()

    def open(self) -> None:
        self.database = Database(self.folder / "state")
        self.journal = Journal(self.database, Index(self.database))

    def teardown(self) -> None:
        self.database.close()
        shutil.rmtree(self.folder)

    def _attempt(self, work: Coroutine[Any, Any, object], *, writes: bool) -> bool:
        """Whether it was done; on a full disk what would write has to fail, and to change nothing."""
        if self.is_full and writes:
            with pytest.raises(sqlite3.Error):
                asyncio.run(work)
            return False
        asyncio.run(work)
        return True

    def _draw(self, data: st.DataObject) -> tuple[Row, str]:
        row = data.draw(st.sampled_from(list(self.model.values())))
        return row, data.draw(st.sampled_from(REMOTES))

    @rule(number=st.integers(0, 3), remotes=st.sets(st.sampled_from(REMOTES), min_size=1))
    def take(self, number: int, remotes: set[str]) -> None:
        self.count += 1
        folder = self.folder / "outbox" / str(self.count)
        folder.mkdir(parents=True)
        facts = FileFacts(self.count, 1, self.count, 0, 0)
        made = Provenance({"model.neff": FileDigest(self.count, "0" * 64)})
        taken = Taken(self.folder, entries.module(number), folder, made, facts, LOCAL)
        if self.is_full:
            with pytest.raises(sqlite3.Error) as failure:
                self.journal.insert_blocking(taken, remotes)
            self.journal.failed(taken, failure.value)
            assert not folder.exists()
            return
        item = self.journal.insert_blocking(taken, remotes)
        for row in [row for row in self.model.values() if row.name == taken.name]:
            row.deliveries = {remote: why for remote, why in row.deliveries.items() if why != _GONE}
            self._drop_if_done(row)
        self.model[item.id] = Row(item, taken.name, folder, dict.fromkeys(remotes))
        self.newest[taken.name] = item.id

    def _drop_if_done(self, row: Row) -> None:
        if not row.deliveries:
            del self.model[row.item.id]
            assert not row.folder.exists(), "its pinned files go with it"

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        row, remote = self._draw(data)
        for _ in range(2):  # a lost answer is repeated
            if self._attempt(self.journal.close(row.item, remote), writes=remote in row.deliveries):
                row.deliveries.pop(remote, None)
        if row.item.id in self.model:
            self._drop_if_done(row)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), reason=st.sampled_from(_REASONS))
    def park(self, data: st.DataObject, reason: str) -> None:
        row, remote = self._draw(data)
        is_there = remote in row.deliveries
        if not self._attempt(self.journal.park(row.item, remote, reason), writes=is_there) or not is_there:
            return
        if reason == _GONE and self.newest[row.name] != row.item.id:
            del row.deliveries[remote]  # what is there now has been taken since, whether it went already or not
            self._drop_if_done(row)
        else:
            row.deliveries[remote] = reason

    @rule(remote=st.sampled_from(REMOTES), reasons=st.sets(st.sampled_from(_REASONS), min_size=1))
    def unpark(self, remote: str, reasons: set[str]) -> None:
        parked = [row for row in self.model.values() if row.deliveries.get(remote) in reasons]
        if self._attempt(self.journal.unpark(remote, reasons), writes=bool(parked)):
            for row in parked:
                row.deliveries[remote] = None

    @precondition(lambda self: not self.is_full)
    @rule(remote=st.sampled_from(REMOTES))
    def forget(self, remote: str) -> None:
        folders = {Path(folder) for folder in self.journal.forget_blocking(remote)}
        for row in list(self.model.values()):
            row.deliveries.pop(remote, None)
            if not row.deliveries:
                folders.remove(row.folder)
                shutil.rmtree(row.folder)
                self._drop_if_done(row)
        assert folders == set()

    @rule(is_full=st.booleans())
    def fill_the_disk_or_make_room(self, is_full: bool) -> None:
        script = _FULL if is_full else _ROOM
        self.database.run_blocking(lambda connection: [connection.execute(script.format(what)) for what in _CHANGES])
        self.is_full = is_full

    @rule()
    def restart(self) -> None:
        self.database.close()
        self.open()
        self.is_full = False

    @invariant()
    def agrees_with_the_model(self) -> None:
        asyncio.run(self._compare())
        assert self.journal.folders_blocking() == {row.folder for row in self.model.values()}
        assert all(row.folder.is_dir() for row in self.model.values())
        deliveries = [remote for row in self.model.values() for remote in row.deliveries]
        assert self.journal.count_blocking() == {remote: deliveries.count(remote) for remote in set(deliveries)}

    async def _compare(self) -> None:
        for remote in REMOTES:
            meant = {number: row for number, row in self.model.items() if remote in row.deliveries}
            is_open = [row for row in meant.values() if row.deliveries[remote] is None]
            items = await self.journal.open_items(remote)
            assert [item.id for item in items] == [row.item.id for row in is_open], "oldest first"
            loaded = await self.journal.load([row.item for row in self.model.values()], remote)
            assert [(row.item.id, row.entry.directory) for row in loaded] == [
                (row.item.id, row.folder) for row in is_open
            ]
            parked = {number: row.deliveries[remote] for number, row in meant.items() if row.deliveries[remote]}
            assert {number: kept.reason for number, kept in (await self.journal.parked(remote)).items()} == parked
            assert await self.journal.names_for(remote) == [row.name for row in meant.values()]
        assert await self.journal.remotes() == {remote for row in self.model.values() for remote in row.deliveries}


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
