"""Runs in the database: what they were, and the modules they used, so that a restart forgets nothing.

The column `instance` holds `Identity.name`: instances are the users' own words, and two users may have the same one.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neff.keys import ModuleName
from neffd.runs.identity import Identity, model_id, split_name
from neffd.runs.manifests import Manifest, UsedModule
from neffd.runs.recorder import ASKED, Run, Used
from neffd.store import columns
from neffd.store.database import Database

KEPT_RUNS = 1_000
# Nothing was heard for this long: whoever greets with the same name is another run.
_RESUMED_WITHIN_S = 6 * 3600.0
_IS_OPEN = "ended_at IS NULL AND heard_at > ?"
_COLUMNS = "id, instance, run_key, ingredients, is_private, began_at"
# Of many modules, so that one user's cannot fill the disk; and which run goes first: always the oldest of the user who
# has the most, so that nobody drops what is others'. One that goes on is never dropped.
KEPT_MODULES = 1_000_000
_USER = "substr(instance, 1, instr(instance, ':'))"
_FAIRLY = (
    f"SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY {_USER} ORDER BY id DESC) AS place FROM runs)"
    " ORDER BY place DESC, id LIMIT ?"
)
# Those that ended before their first graph say nothing.
_HAS_MODULES = "EXISTS (SELECT 1 FROM run_modules WHERE run_id = runs.id)"
_LATEST = (
    f"SELECT {_COLUMNS} FROM (SELECT *, row_number() OVER (PARTITION BY {_USER} ORDER BY id DESC) AS place"
    " FROM runs WHERE {}) ORDER BY place, id DESC LIMIT ?"
)
_WITH_KEY = _LATEST.format(f"run_key = ? AND {_HAS_MODULES}")
_MODEL = "CASE WHEN json_valid(ingredients) THEN json_extract(ingredients, '$.model.{}') END"
_OF_MODEL = _LATEST.format(
    f"id IN (SELECT max(id) FROM runs WHERE run_key != '' AND {_MODEL.format('id')} IS ?"
    f" AND {_MODEL.format('type')} IS ? AND {_HAS_MODULES} GROUP BY {_USER}, run_key)"
)
_DROP = f"DELETE FROM runs WHERE id IN ({_FAIRLY}) AND (ended_at IS NOT NULL OR heard_at < ?)"
_COUNT = "SELECT count(*) FROM runs"
_COUNT_MODULES = "SELECT count(*) FROM run_modules"
# Nobody will ask any more whose they were.
_DROP_OWNERS = (
    "DELETE FROM module_owners WHERE (namespace, key) NOT IN (SELECT namespace, key FROM run_modules"
    " UNION SELECT namespace, key FROM outbox UNION SELECT namespace, key FROM entries)"
)


class Book:
    """The runs of this host, durable.

    Args:
        wall: seconds since the epoch.
    """

    def __init__(self, database: Database, wall: Callable[[], float]) -> None:
        self._database = database
        self._wall = wall
        self._modules: int | None = None  # how many may be written down at most; not counted yet

    async def open_runs(self, now_s: float) -> list[Run]:
        """Those that had not ended, as of the monotonic time `now_s`. Raises sqlite3.Error."""

        def read(connection: sqlite3.Connection) -> list[Run]:
            since = self._wall() - _RESUMED_WITHIN_S
            query = f"SELECT {_COLUMNS} FROM runs WHERE {_IS_OPEN}"
            return [_run(connection, row, now_s) for row in connection.execute(query, (since,)).fetchall()]

        return await self._database.run(read)

    async def end_others(self) -> None:
        """What remotes have still to be told of runs that do not go on is all that there will be.

        Of those that nobody ended: their host was away for long. Raises sqlite3.Error.
        """
        end = (
            "UPDATE manifests_pending SET has_ended = 1 WHERE NOT has_ended"
            f" AND run NOT IN (SELECT instance FROM runs WHERE {_IS_OPEN})"
        )
        since = self._wall() - _RESUMED_WITHIN_S
        await self._database.run(lambda connection: connection.execute(end, (since,)))

    async def write(self, runs: Sequence[Run]) -> None:
        """Write down what is new of `runs`; raises sqlite3.Error, and then the next call tries again."""
        now = self._wall()
        changes = [_Change.taken_from(run) for run in runs]

        def write(connection: sqlite3.Connection) -> list[int]:
            rows = [_write(connection, change, now) for change in changes]
            self._drop_old(connection, sum(len(change.used) for change in changes), now - _RESUMED_WITHIN_S)
            return rows

        try:
            rows = await self._database.run(write)
        except BaseException:
            for run, change in zip(runs, changes, strict=True):
                change.give_back(run)
            raise
        for run, row in zip(runs, rows, strict=True):
            run.row = row

    def _drop_old(self, connection: sqlite3.Connection, more_modules: int, silent_since: float) -> None:
        """Keep the bounds; the modules are counted again only when there may be too many."""
        surplus = connection.execute(_COUNT).fetchone()[0] - KEPT_RUNS
        if surplus > 0:
            connection.execute(_DROP, (surplus, silent_since))
        if self._modules is None or self._modules + more_modules > KEPT_MODULES:
            self._modules = connection.execute(_COUNT_MODULES).fetchone()[0]
            if self._modules > KEPT_MODULES:
                connection.execute(_DROP, (connection.execute(_COUNT).fetchone()[0] // 4 + 1, silent_since))
                self._modules = connection.execute(_COUNT_MODULES).fetchone()[0]
        else:
            self._modules += more_modules

    async def with_key(self, run_key: str, most: int = 8) -> list[Manifest]:
        """What the latest runs of a key used, one manifest a run and compiler version. Raises sqlite3.Error.

        The latest of each user first: however many one has, the others' are not forgotten over them.
        """
        return await self._database.run(lambda connection: _manifests(connection, _WITH_KEY, (run_key, most)))

    async def of_model(self, ingredients: Mapping[str, Any], most: int = 8) -> list[Manifest]:
        """The same of the latest run of each key with the model of these ingredients. Raises sqlite3.Error."""
        model = ingredients.get("model")
        told = model.get("type") if isinstance(model, Mapping) else None
        of_model = (model_id(ingredients), told if isinstance(told, str) else None, most)
        if of_model[:2] == (None, None):
            return []
        return await self._database.run(lambda connection: _manifests(connection, _OF_MODEL, of_model))

    async def owners(self) -> list[tuple[ModuleName, str]]:
        """Modules, and the models whose runs used them. Raises sqlite3.Error."""

        def read(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
            connection.execute(_DROP_OWNERS)
            return connection.execute("SELECT namespace, key, model FROM module_owners").fetchall()

        return [(ModuleName(namespace, key), model) for namespace, key, model in await self._database.run(read)]

    async def saved_s(self, without: Collection[Run] = ()) -> float:
        """The compile seconds that fetching saved all runs that are kept, but for some. Raises sqlite3.Error."""
        query = "SELECT total(compile_s) FROM run_modules WHERE how IN ('fetched', 'prefetched')"
        row = await self._database.run(lambda connection: connection.execute(query).fetchone())
        return max(0.0, float(row[0]) - sum(run.saved_s for run in without))


def manifests_of(run: Run) -> list[Manifest]:
    """What a run used, one manifest a compiler version, in order of first use."""
    modules: dict[str, list[UsedModule]] = {}
    for name, used in sorted(run.modules.items(), key=lambda item: item[1].position):
        modules.setdefault(name.namespace, []).append(UsedModule(name.key, used.size_bytes, used.compile_s))
    return [
        Manifest(namespace, run.identity.run_key, run.identity.ingredients, tuple(used))
        for namespace, used in modules.items()
    ]


@dataclass(frozen=True)
class _Change:
    """What is to be written of a run; a copy, for the database's thread."""

    row: int | None
    identity: Identity
    began_at: float
    has_ended: bool
    used: dict[ModuleName, Used]

    @classmethod
    def taken_from(cls, run: Run) -> _Change:
        """What changes from now on is the next one's."""
        used = {name: dataclasses.replace(run.modules[name]) for name in run.changed}
        run.changed, run.is_written = set(), True
        return cls(run.row, run.identity, run.began_at, run.has_ended and not run.is_untold, used)

    def give_back(self, run: Run) -> None:
        """It could not be written."""
        run.changed |= self.used.keys()
        run.is_written = False


def _write(connection: sqlite3.Connection, change: _Change, now: float) -> int:
    identity, row = change.identity, change.row
    if row is None:
        # The same name again: an earlier run that has ended keeps its modules under one that no client can say.
        rename = "UPDATE runs SET instance = instance || char(10) || id WHERE instance = ?"
        connection.execute(rename, (identity.name,))
        insert = (
            "INSERT INTO runs (instance, run_key, ingredients, is_private, began_at, heard_at) VALUES (?,'','',0,?,?)"
        )
        row = connection.execute(insert, (identity.name, change.began_at, now)).lastrowid
        assert row is not None
    updated = connection.execute(
        "UPDATE runs SET run_key = ?, ingredients = ?, is_private = ?, heard_at = ?, ended_at = ? WHERE id = ?",
        (
            identity.run_key,
            json.dumps(identity.ingredients),
            identity.is_private,
            now,
            now if change.has_ended else None,
            row,
        ),
    )
    if not updated.rowcount:
        return row  # dropped: it was silent for long
    if (owner := identity.owner) is not None:
        owned = [(*name, owner) for name in change.used]
        connection.executemany("INSERT OR IGNORE INTO module_owners VALUES (?,?,?)", owned)
    connection.executemany(
        "INSERT OR REPLACE INTO run_modules VALUES (?,?,?,?,?,?,?,?)",
        [
            (row, used.position, used.root, *name, used.how, used.size_bytes, used.compile_s)
            for name, used in change.used.items()
        ],
    )
    return row


def _manifests(connection: sqlite3.Connection, query: str, values: Sequence[object]) -> list[Manifest]:
    rows = connection.execute(query, values).fetchall()
    return [found for row in rows for found in manifests_of(_run(connection, row, 0.0))]


def _run(connection: sqlite3.Connection, row: tuple[Any, ...], now_s: float) -> Run:
    number, name, run_key, ingredients, is_private, began_at = row
    uid, instance = split_name(name)
    identity = Identity(instance, run_key, columns.json_object(ingredients), bool(is_private), uid=uid)
    run = Run(identity, began_at, now_s, now_s, number)
    query = (
        "SELECT namespace, key, root, how, position, size_bytes, compile_s FROM run_modules"
        " WHERE run_id = ? ORDER BY position"
    )
    for namespace, key, root, how, position, size_bytes, compile_s in connection.execute(query, (number,)):
        run.modules[ModuleName(namespace, key)] = Used(root, how or ASKED, position, size_bytes, compile_s)
    run.is_written = True
    return run
