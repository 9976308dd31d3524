"""The durable queue of entries that still have to reach a remote.

An entry is in it from the moment it was taken (its files pinned, its digests known) until every remote that it is
meant for has confirmed it. A delivery that cannot succeed is parked with a reason, never dropped.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from neff.keys import ModuleName
from neffd import points
from neffd.publish.batch import Item
from neffd.remotes import provenance
from neffd.remotes.base import OutgoingEntry
from neffd.remotes.provenance import Provenance
from neffd.store import columns, damage, fsops
from neffd.store.database import Database
from neffd.store.index import EXISTING, Index
from neffd.store.root import FileFacts

log = logging.getLogger(__name__)

_COMPLETE = "journal-complete"
# The pinned files themselves can never be sent; a newer copy of the entry takes their place.
_HOPELESS = ("changed-locally", "files-lost", "gone-locally")


@dataclass(frozen=True)
class Taken:
    """An own entry, read and pinned: what the journal needs to know of it."""

    root: Path
    name: ModuleName
    folder: Path
    provenance: Provenance
    neff: FileFacts
    origin: str

    @property
    def size_bytes(self) -> int:
        return sum(digest.size_bytes for digest in self.provenance.files.values())


@dataclass(frozen=True)
class Parked:
    """A delivery that waits for a person, and why."""

    name: ModuleName
    remote: str
    reason: str


@dataclass(frozen=True)
class Row:
    """One open delivery with what is needed to make it."""

    item: Item
    entry: OutgoingEntry
    existing: bool


class Journal:
    """Open deliveries, durable in the database."""

    def __init__(self, database: Database, known: Index) -> None:
        self._database = database
        self._index = known
        self._doubtful: list[Path] = []

    def insert_blocking(self, taken: Taken, remotes: Collection[str]) -> Item:
        """Note an entry and whom it is for, in one transaction; returns its item.

        Raises sqlite3.Error; see `failed`.
        """
        provenance_bytes = taken.provenance.encode()
        file_count = len(taken.provenance.files) + 1  # and neffd.json
        queued_at = time.time()

        def write(connection: sqlite3.Connection) -> tuple[int, list[Path]]:
            cursor = connection.execute(
                "INSERT INTO outbox"
                " (root, namespace, key, folder, provenance, size_bytes, file_count, existing, queued_at)"
                " VALUES (?,?,?,?,?,?,?,?,?)",
                (
                    str(taken.root),
                    *taken.name,
                    str(taken.folder),
                    provenance_bytes,
                    taken.size_bytes,
                    file_count,
                    taken.origin == EXISTING,
                    queued_at,
                ),
            )
            number = cursor.lastrowid
            assert number is not None
            connection.executemany(
                "INSERT INTO deliveries VALUES (?, ?, NULL)", [(number, remote) for remote in remotes]
            )
            files, compile_s = taken.provenance.files, taken.provenance.compile_s
            self._index.insert(
                connection, taken.root, taken.name, taken.origin, taken.neff, files, compile_s, was_taken=True
            )
            return number, _drop_outdated(connection, taken, number)

        doubtful, self._doubtful = self._doubtful, []
        try:
            number, outdated = self._database.run_blocking(write)
        except BaseException:
            self._doubtful += doubtful
            raise
        _remove([*outdated, *doubtful], "journal-inserted")
        return Item(number, taken.size_bytes, file_count, queued_at, taken.provenance.compile_s)

    def failed(self, taken: Taken, error: BaseException) -> None:
        """The entry could not be noted: remove its pinned files, at once or when that is safe. Blocking."""
        if damage.may_be_written(error):
            # A crash would bring its row back, unless another one is written first.
            self._doubtful.append(taken.folder)
        else:
            fsops.remove_tree(taken.folder)

    async def open_items(self, remote: str) -> list[Item]:
        """Everything that waits for `remote`, oldest first, without what is parked."""
        query = (
            "SELECT id, size_bytes, file_count, queued_at, compile_s FROM outbox JOIN deliveries ON outbox_id = id"
            " LEFT JOIN entries USING (root, namespace, key) WHERE remote = ? AND parked_reason IS NULL ORDER BY id"
        )
        return await self._database.run(lambda connection: [Item(*row) for row in connection.execute(query, (remote,))])

    async def load(self, items: Sequence[Item], remote: str) -> list[Row]:
        """The rows of `items` that are still open for `remote`."""
        query = (
            "SELECT namespace, key, folder, provenance, existing FROM outbox JOIN deliveries ON outbox_id = id"
            " WHERE id = ? AND remote = ? AND parked_reason IS NULL"
        )

        def read(connection: sqlite3.Connection) -> list[Row]:
            rows = []
            for item in items:
                found = connection.execute(query, (item.id, remote)).fetchone()
                described = provenance.parse(found[3]) if found else None
                if described is not None:
                    entry = OutgoingEntry(ModuleName(found[0], found[1]), Path(found[2]), described)
                    rows.append(Row(item, entry, bool(found[4])))
            return rows

        return await self._database.run(read)

    async def close(self, item: Item, remote: str) -> None:
        """`remote` has confirmed the entry; when it was the last one, the row goes, then its pinned files."""
        closed = await self._database.run(lambda connection: _close(connection, item, remote))
        await asyncio.to_thread(_remove, closed, "journal-deleted")

    async def park(self, item: Item, remote: str, reason: str) -> bool:
        """Keep the delivery, out of the queue, until a person acts or its cause goes.

        Returns False where there is nothing to keep: the files were written over, and are taken as they are now.
        """

        def write(connection: sqlite3.Connection) -> list[Path] | None:
            if reason in _HOPELESS and _was_taken_anew(connection, item):
                return _close(connection, item, remote)
            connection.execute(
                "UPDATE deliveries SET parked_reason = ? WHERE outbox_id = ? AND remote = ?", (reason, item.id, remote)
            )
            return None

        closed = await self._database.run(write)
        await asyncio.to_thread(_remove, closed or (), "journal-deleted")
        return closed is None

    async def unpark(self, remote: str, reasons: Collection[str]) -> None:
        """Queue again what was parked at `remote` for one of `reasons`."""
        marks = ",".join("?" * len(reasons))
        await self._database.run(
            lambda connection: connection.execute(
                f"UPDATE deliveries SET parked_reason = NULL WHERE remote = ? AND parked_reason IN ({marks})",
                (remote, *reasons),
            )
        )

    async def parked(self, remote: str) -> dict[int, Parked]:
        """Every delivery parked at `remote`, by row."""
        query = (
            "SELECT id, namespace, key, parked_reason FROM outbox JOIN deliveries ON outbox_id = id"
            " WHERE remote = ? AND parked_reason IS NOT NULL ORDER BY id"
        )
        return await self._database.run(
            lambda connection: {
                number: Parked(ModuleName(namespace, key), remote, reason)
                for number, namespace, key, reason in connection.execute(query, (remote,))
            }
        )

    async def remotes(self) -> set[str]:
        """Every remote that rows are meant for, configured or not."""
        return await self._database.run(
            lambda connection: {remote for (remote,) in connection.execute("SELECT DISTINCT remote FROM deliveries")}
        )

    async def names_for(self, remote: str) -> list[ModuleName]:
        """Every entry that is meant for `remote`, parked or not."""
        query = "SELECT namespace, key FROM outbox JOIN deliveries ON outbox_id = id WHERE remote = ? ORDER BY id"
        return await self._database.run(
            lambda connection: [ModuleName(*row) for row in connection.execute(query, (remote,))]
        )

    def count_blocking(self) -> dict[str, int]:
        """How many entries are meant for each remote, parked or not."""
        query = "SELECT remote, count(*) FROM deliveries GROUP BY remote"
        return self._database.run_blocking(lambda connection: dict(connection.execute(query).fetchall()))

    def forget_blocking(self, remote: str) -> list[str]:
        """Give up everything that is known of and waits for `remote`; returns folders of pinned files to remove."""

        def write(connection: sqlite3.Connection) -> list[str]:
            for table in ("deliveries", "listings", "refusals", "manifests_pending"):
                connection.execute(f"DELETE FROM {table} WHERE remote = ?", (remote,))
            rows = connection.execute(
                "DELETE FROM outbox WHERE NOT EXISTS (SELECT 1 FROM deliveries WHERE outbox_id = id) RETURNING folder"
            )
            return [folder for (folder,) in rows.fetchall()]

        return self._database.run_blocking(write)

    def is_new_blocking(self) -> bool:
        """Whether the file was made anew, so that staging folders may hold what the journal does not know."""
        return self._database.run_blocking(
            lambda connection: connection.execute("SELECT 1 FROM meta WHERE name = ?", (_COMPLETE,)).fetchone() is None
        )

    def is_complete_blocking(self) -> None:
        """Note that nothing waits that the journal does not know."""
        self._database.run_blocking(
            lambda connection: connection.execute("INSERT OR REPLACE INTO meta VALUES (?, '')", (_COMPLETE,))
        )

    def folders_blocking(self) -> set[Path]:
        """Folders of pinned files that rows refer to."""
        return self._database.run_blocking(
            lambda connection: {Path(folder) for (folder,) in connection.execute("SELECT folder FROM outbox")}
        )


def _remove(folders: Collection[Path], point: str) -> None:
    """Pinned files that no row refers to any more; what is left of them goes at the next start."""
    try:
        points.reached(point)
        for folder in folders:
            fsops.remove_tree(folder)
    except OSError as error:
        log.warning("pinned files are not removed yet: %s", error)


def _close(connection: sqlite3.Connection, item: Item, remote: str) -> list[Path]:
    """Take out one delivery, and the row with the last of them; returns the folder of a row that went."""
    connection.execute("DELETE FROM deliveries WHERE outbox_id = ? AND remote = ?", (item.id, remote))
    closed = connection.execute(
        "DELETE FROM outbox WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM deliveries WHERE outbox_id = ?1)"
        " RETURNING folder",
        (item.id,),
    )
    return [Path(folder) for (folder,) in closed.fetchall()]


def _was_taken_anew(connection: sqlite3.Connection, item: Item) -> bool:
    """Whether the entry went into the journal once more after this row, with other files."""
    found = connection.execute(
        "SELECT provenance, files FROM outbox JOIN entries USING (root, namespace, key) WHERE id = ? AND was_taken",
        (item.id,),
    ).fetchone()
    described = provenance.parse(found[0]) if found else None
    if described is None or found[1] is None:
        return False
    return dict(described.files) != columns.digests(found[1])


def _drop_outdated(connection: sqlite3.Connection, taken: Taken, newest: int) -> list[Path]:
    """Give up earlier rows of the entry whose pinned files can never be sent; returns their folders.

    The entry was written again since, and this newer copy takes their place.
    """
    same = (str(taken.root), *taken.name, newest)
    of_entry = "root = ? AND namespace = ? AND key = ? AND id < ?"
    connection.execute(
        f"DELETE FROM deliveries WHERE parked_reason IN {_HOPELESS}"
        f" AND outbox_id IN (SELECT id FROM outbox WHERE {of_entry})",
        same,
    )
    closed = connection.execute(
        f"DELETE FROM outbox WHERE {of_entry} AND NOT EXISTS (SELECT 1 FROM deliveries WHERE outbox_id = id)"
        " RETURNING folder",
        same,
    )
    return [Path(folder) for (folder,) in closed.fetchall()]
