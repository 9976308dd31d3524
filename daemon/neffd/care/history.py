"""The story of modules on this host: who asked, what they were told, what was compiled, fetched, pushed, set aside.

Noting costs the caller an append; rows reach the database in groups, a second later at most, and the oldest go when
there are too many. What a kill takes with it is lost: a story is no journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neff.keys import ModuleName
from neffd.fetch.flight import Answer
from neffd.store import columns
from neffd.store.database import Database
from neffd.store.root import FileFacts

log = logging.getLogger(__name__)

MAX_ROWS = 50_000
_FLUSH_EVERY_S = 1.0
# More than this within one flush says nothing new.
_MAX_WAITING = 10_000
_MAX_PIDS = 8
# Wanted until the entry is in the journal, seconds later.
_MAX_MEASURED = 1_000
_MEASURED_FOR_S = 600.0
# How far the clocks of file system and daemon, and the moments of look and write, may be apart.
_SLACK_S = 2.0


@dataclass(frozen=True)
class Asker:
    """Who asked: the kernel's word on process and user, and the launcher's variables that the client named."""

    pid: int
    uid: int
    job: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """One thing that happened to a module.

    `at` is in seconds since the epoch, `root` empty where it is not known; an event that is `once` is not noted again
    with the same facts.
    """

    at: float
    root: str
    name: ModuleName
    what: str
    facts: Mapping[str, Any]
    once: bool = False


class History:
    """Notes events and gives them back.

    Args:
        wall: seconds since the epoch.
        max_rows: how many events are kept.
    """

    def __init__(self, database: Database, *, wall: Callable[[], float] = time.time, max_rows: int = MAX_ROWS) -> None:
        self._database = database
        self._wall = wall
        self._max_rows = max_rows
        self._waiting: dict[object, Event] = {}
        self._wake = asyncio.Event()
        self._measured: OrderedDict[tuple[str, ModuleName], tuple[float, float]] = OrderedDict()

    def note(self, root: Path | str, name: ModuleName, what: str, *, once: bool = False, **facts: Any) -> None:
        """Note that something happened; with `once`, unless the same was noted before. No I/O; for the event loop."""
        self._add(object(), Event(self._wall(), str(root), name, what, facts, once))

    def asked(self, root: Path | str, name: ModuleName, asker: Asker, answer: Answer) -> None:
        """Note a question and its final answer; the ranks of one user that are told the same make one event."""
        together = (str(root), name, asker.uid, answer.ready, answer.reason, answer.source)
        before = self._waiting.get(together)
        pids = [*before.facts["pids"], asker.pid] if before else [asker.pid]
        facts: dict[str, Any] = {"uid": asker.uid, "pids": list(dict.fromkeys(pids))[:_MAX_PIDS]}
        facts["times"] = before.facts["times"] + 1 if before else 1
        facts["job"] = before.facts["job"] if before else dict(asker.job)
        facts |= {"answer": "ready", "source": answer.source} if answer.ready else {"answer": "absent"}
        if answer.reason:
            facts["reason"] = answer.reason
        self._add(together, Event(before.at if before else self._wall(), str(root), name, "asked", facts))

    def compiled(self, root: Path | str, name: ModuleName, pid: int, uid: int, seconds: float | None) -> None:
        """Note a compile that a process of `uid` has just finished, where known `seconds` after it took the lock."""
        self._measured.pop((str(root), name), None)
        if seconds is not None:
            seconds = round(seconds, 3)
            self._measured[str(root), name] = (self._wall(), seconds)
        while self._measured and self._has_measured_long():
            self._measured.popitem(last=False)
        self.note(root, name, "compiled", pid=pid, uid=uid, seconds=seconds)

    def _has_measured_long(self) -> bool:
        ended_at, _ = next(iter(self._measured.values()))
        return len(self._measured) > _MAX_MEASURED or self._wall() - ended_at > _MEASURED_FOR_S

    def compile_s(self, root: Path | str, name: ModuleName, neff: FileFacts) -> float | None:
        """The measured seconds of the compile that made this NEFF; None where nobody measured it. From any thread."""
        measured = self._measured.get((str(root), name))
        if measured is None:
            return None
        ended_at, seconds = measured
        made_at = neff.mtime_ns / 1e9
        return seconds if ended_at - seconds - _SLACK_S <= made_at <= ended_at + _SLACK_S else None

    async def run(self) -> None:
        """Write what was noted, in groups, until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(_FLUSH_EVERY_S)
            self._wake.clear()
            with contextlib.suppress(sqlite3.Error):  # a full disk; said by those who must write
                await self.flush()

    async def flush(self) -> None:
        """Write what was noted so far; raises sqlite3.Error, and then has lost it."""
        events, self._waiting = list(self._waiting.values()), {}
        if not events:
            return

        def write(connection: sqlite3.Connection) -> None:
            for event in events:
                _insert(connection, event)
            connection.execute("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (self._max_rows,))

        await self._database.run(write)

    async def of(self, name: ModuleName, most: int) -> list[Event]:
        """The newest events of a module, oldest first. Raises sqlite3.Error."""
        await self.flush()
        query = "SELECT at, root, what, facts FROM events WHERE key = ? AND namespace = ? ORDER BY id DESC LIMIT ?"

        def read(connection: sqlite3.Connection) -> list[Event]:
            rows = connection.execute(query, (name.key, name.namespace, most)).fetchall()
            return [Event(at, root, name, what, columns.json_object(text)) for at, root, what, text in reversed(rows)]

        return await self._database.run(read)

    def _add(self, group: object, event: Event) -> None:
        if group not in self._waiting and len(self._waiting) >= _MAX_WAITING:
            return
        self._waiting[group] = event
        self._wake.set()


def _insert(connection: sqlite3.Connection, event: Event) -> None:
    told = (event.root, *event.name, event.what, _as_json(event.facts))
    if event.once:
        same = "root = ? AND namespace = ? AND key = ? AND what = ? AND facts = ?"
        if connection.execute(f"SELECT 1 FROM events WHERE {same}", told).fetchone():
            return
    connection.execute(
        "INSERT INTO events (at, root, namespace, key, what, facts) VALUES (?,?,?,?,?,?)", (event.at, *told)
    )


def names_noted(connection: sqlite3.Connection, start: str, most: int) -> list[ModuleName]:
    """Modules in events, index or journal whose key begins with `start`. Inside a work of the database."""
    end = start[:-1] + chr(ord(start[-1]) + 1)
    queries = (
        f"SELECT DISTINCT namespace, key FROM {table} WHERE key >= ? AND key < ? LIMIT ?"
        for table in ("events", "entries", "outbox")
    )
    found = {ModuleName(*row) for query in queries for row in connection.execute(query, (start, end, most))}
    return sorted(found)


def _as_json(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, separators=(",", ":"))


def newest(events: Sequence[Event], *kinds: str) -> Event | None:
    """The last event of one of these kinds."""
    return next((event for event in reversed(events) if event.what in kinds), None)
