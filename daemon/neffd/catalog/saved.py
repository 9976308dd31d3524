"""Complete listings of remotes, kept in the database so that a restart costs one look at the version."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection

from neffd.slices import slices
from neffd.store.database import Database

log = logging.getLogger(__name__)


class SavedListings:
    """One row a remote and namespace: the version, and all keys in one text."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, remote: str) -> dict[str, tuple[str, set[str]]]:
        """Version and keys of every namespace listed before, the latest last; none where the disk fails."""
        query = "SELECT namespace, version, keys FROM listings WHERE remote = ? ORDER BY rowid"
        try:
            return await self._database.run(lambda connection: dict(map(_read, connection.execute(query, (remote,)))))
        except (OSError, sqlite3.Error) as error:
            log.warning("kept listings of %s cannot be read: %s", remote, error)
            return {}

    async def save(self, remote: str, namespace: str, version: str, keys: Collection[str]) -> None:
        """Replace the listing of one namespace; on a full disk nothing is replaced, and a restart lists once more.

        `keys` must stay as they are until then.
        """

        def write(connection: sqlite3.Connection) -> None:
            text = "\n".join("\n".join(part) for part in slices(keys))
            connection.execute(
                "INSERT OR REPLACE INTO listings VALUES (?, ?, ?, ?)", (remote, namespace, version, text)
            )

        try:
            await self._database.run(write)
        except (OSError, sqlite3.Error) as error:
            log.warning("the listing of %s on %s is not kept for the next start: %s", namespace, remote, error)

    async def drop(self, remote: str, namespaces: Collection[str]) -> None:
        """What was listed there is not wanted any more; where the disk fails, a restart shows it once more."""
        if not namespaces:
            return
        statement = "DELETE FROM listings WHERE remote = ? AND namespace = ?"
        rows = [(remote, namespace) for namespace in namespaces]
        try:
            await self._database.run(lambda connection: connection.executemany(statement, rows))
        except (OSError, sqlite3.Error) as error:
            log.warning("listings of %s that nobody needs stay: %s", remote, error)


def _read(row: tuple[str, str, str]) -> tuple[str, tuple[str, set[str]]]:
    """On the database's thread: there may be very many keys."""
    namespace, version, text = row
    keys = set(text.split("\n"))
    keys.discard("")
    return namespace, (version, keys)
