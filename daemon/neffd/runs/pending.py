"""Manifests that remotes have still to be told of, in the database."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from neffd.runs import manifests
from neffd.runs.manifests import BadManifest, Manifest
from neffd.store.database import Database

# What has not got through by then, in one life of the daemon, is of no use to anybody.
KEEP_S = 7 * 86_400.0


@dataclass(eq=False)
class Pending:
    """What one run used, for one remote.

    Attributes:
        run: whose, and which start of which job: its name on this host, which no manifest tells.
        went_alone: whether it has had its commit of its own.
        changed_s: monotonic; when it was offered last.
        told: keys that manifests of this run key on the remote name.
        refusals: how often the remote refused it since it took something of it, in this life of the daemon.
        setbacks: how often it was sent and not taken since then, whosever fault that was.
        vain_looks: how often in a row nobody could tell what the remote was told of its run.
    """

    run: str
    manifest: Manifest
    is_private: bool
    has_ended: bool
    changed_s: float
    went_alone: bool = False
    told: set[str] = field(default_factory=set)
    refusals: int = 0
    setbacks: int = 0
    vain_looks: int = 0


class PendingBook:
    """Args:
    wall: seconds since the epoch.
    """

    def __init__(self, database: Database, wall: Callable[[], float] = time.time) -> None:
        self._database = database
        self._wall = wall

    async def load(self, remote: str, now_s: float) -> list[Pending]:
        """What waits for `remote`, offered first first, however long ago that was by a clock that may have jumped."""
        query = (
            "SELECT run, path, document, is_private, has_ended, went_alone FROM manifests_pending"
            " WHERE remote = ? ORDER BY rowid"
        )

        def read(connection: sqlite3.Connection) -> list[Pending]:
            waiting = []
            for run, path, document, is_private, has_ended, went_alone in connection.execute(query, (remote,)):
                try:
                    manifest = manifests.decode(path, document)
                except BadManifest:
                    continue  # damaged
                waiting.append(Pending(run, manifest, bool(is_private), bool(has_ended), now_s, bool(went_alone)))
            return waiting

        return await self._database.run(read)

    async def save(self, remote: str, waiting: Pending) -> None:
        """Write one down."""
        manifest = waiting.manifest
        facts = (waiting.is_private, waiting.has_ended, waiting.went_alone, self._wall())
        key = (remote, waiting.run, manifest.namespace)

        def write(connection: sqlite3.Connection) -> None:  # encoded here: what is saved later is written later
            row = (*key, *manifests.filed(manifest), *facts)
            connection.execute("INSERT OR REPLACE INTO manifests_pending VALUES (?,?,?,?,?,?,?,?,?)", row)

        await self._database.run(write)

    async def forget(self, remote: str, waiting: Pending) -> None:
        """The remote has it, or never will."""
        key = (remote, waiting.run, waiting.manifest.namespace)
        await self._database.run(
            lambda connection: connection.execute(
                "DELETE FROM manifests_pending WHERE remote = ? AND run = ? AND namespace = ?", key
            )
        )
