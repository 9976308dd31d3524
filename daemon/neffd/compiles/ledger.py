"""What must outlive the daemon: who held which lock, and which locks were seen under which boot.

Changes are gathered by `Ledger` and written together now and then: a lock that is held for a moment costs no disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from neff.keys import LockId, ModuleName
from neffd.compiles.board import Place
from neffd.compiles.usual import Compile
from neffd.store.database import Database

_HELD = "INSERT OR REPLACE INTO held_locks VALUES (?,?,?,?,?,?,?,?,?,?)"
_SEEN = "INSERT OR REPLACE INTO seen_locks VALUES (?,?,?,?,?,?)"
_WHERE = " WHERE root = ? AND namespace = ? AND key = ?"


class Held(NamedTuple):
    """One lock's maker as the database keeps it; see `processes` for the words."""

    pid: int
    uid: int
    start_time: int | None
    pid_space: str | None
    boot_id: str
    lock: LockId


class Seen(NamedTuple):
    """One lock without a known maker."""

    lock: LockId
    boot_id: str


class Ledger:
    """The two tables, with writes gathered until `flush`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: dict[Place, Held | None] = {}
        self._seen: dict[Place, Seen | None] = {}
        self._on_disk: set[Place] = set()
        self._seen_on_disk: dict[Place, Seen] = {}

    def load(self) -> tuple[dict[Place, Held], dict[Place, Seen], list[Compile]]:
        """Held locks, seen locks, and recorded compiles. Blocking."""
        held, seen, compiles = self._database.run_blocking(_read)
        self._on_disk, self._seen_on_disk = set(held), dict(seen)
        return held, seen, compiles

    def held(self, place: Place, held: Held | None) -> None:
        """Note the maker of a lock; None once the lock is gone."""
        if held is None and place not in self._on_disk:
            self._held.pop(place, None)
        else:
            self._held[place] = held

    def seen(self, place: Place, seen: Seen | None) -> None:
        """Note a lock without a known maker; None once it is gone."""
        if seen != self._seen_on_disk.get(place):
            self._seen[place] = seen
        else:
            self._seen.pop(place, None)

    @property
    def seen_places(self) -> set[Place]:
        """The locks that the database will hold as seen."""
        return (set(self._seen_on_disk) | set(self._seen)) - {p for p, seen in self._seen.items() if seen is None}

    @property
    def is_dirty(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._held or self._seen)

    async def flush(self) -> None:
        """Write what was gathered, in one transaction; it is gathered again if that fails."""
        held, self._held = self._held, {}
        seen, self._seen = self._seen, {}
        # From now on: a lock that goes while this is written has to be taken out again.
        self._on_disk |= {place for place, kept in held.items() if kept is not None}
        try:
            await self._database.run(lambda connection: _write(connection, held.items(), seen.items()))
        except BaseException:
            self._held, self._seen = held | self._held, seen | self._seen
            raise
        for place, kept in held.items():
            if kept is None:
                self._on_disk.discard(place)
        for place, sighting in seen.items():
            self._seen_on_disk.pop(place, None)
            if sighting is not None:
                self._seen_on_disk[place] = sighting


def _read(connection: sqlite3.Connection) -> tuple[dict[Place, Held], dict[Place, Seen], list[Compile]]:
    held = {}
    for row in connection.execute("SELECT * FROM held_locks"):
        _, _, _, pid, uid, start_time, pid_space, boot_id, inode, ctime_ns = row
        held[_place(row)] = Held(pid, uid, start_time, pid_space, boot_id, LockId(inode, ctime_ns))
    seen = {_place(row): Seen(LockId(*row[3:5]), row[5]) for row in connection.execute("SELECT * FROM seen_locks")}
    times = connection.execute(
        "SELECT namespace, key, compile_s, neff_bytes FROM entries WHERE compile_s IS NOT NULL ORDER BY noted_at"
    )
    return held, seen, [Compile(ModuleName(*row[:2]), *row[2:]) for row in times]


def _write(
    connection: sqlite3.Connection,
    held: Iterable[tuple[Place, Held | None]],
    seen: Iterable[tuple[Place, Seen | None]],
) -> None:
    for place, kept in held:
        where = (place.root, *place.name)
        if kept is None:
            connection.execute("DELETE FROM held_locks" + _WHERE, where)
        else:
            connection.execute(_HELD, (*where, *kept[:5], *kept.lock))
    for place, sighting in seen:
        where = (place.root, *place.name)
        if sighting is None:
            connection.execute("DELETE FROM seen_locks" + _WHERE, where)
        else:
            connection.execute(_SEEN, (*where, *sighting.lock, sighting.boot_id))


def _place(row: tuple[str, ...]) -> Place:
    return Place(row[0], ModuleName(row[1], row[2]))
