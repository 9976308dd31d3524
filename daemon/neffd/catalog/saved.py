"""Complete listings of remotes, kept in the database so that a restart costs one look at the version."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from neffd.store.database import Database


class SavedListings:
    """One row a remote and namespace: the version, and all keys in one text."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, remote: str) -> dict[str, tuple[str, set[str]]]:
        """Version and keys of every namespace listed before."""
        query = "SELECT namespace, version, keys FROM listings WHERE remote = ?"
        rows = await self._database.run(lambda connection: connection.execute(query, (remote,)).fetchall())
        return {namespace: (version, set(keys.split("\n")) - {""}) for namespace, version, keys in rows}

    async def save(self, remote: str, namespace: str, version: str, keys: Collection[str]) -> None:
        """Replace the listing of one namespace."""
        row = (remote, namespace, version, "\n".join(keys))

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO listings VALUES (?, ?, ?, ?)", row)

        await self._database.run(write)
