"""Copies on remotes that failed verification: not asked for again until they changed, and kept aside for a look.

A refusal is tied to what was refused: the digests of the remote's copy, and the version of its namespace at that time.
While the version stands still nothing is asked. When it moved, one look at what the remote states of this copy tells
whether it is another one now. Durable, so that a restart does not fetch everything broken once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from neff.keys import ModuleName
from neffd.catalog.catalog import Catalog
from neffd.remotes.base import EntryRefused, RemoteEntry, RemoteUnavailable
from neffd.store import fsops
from neffd.store.database import Database

log = logging.getLogger(__name__)

FOLDER = "refused"
REASON_FILE = "reason.json"
# What is kept for a look in one staging folder.
MOST_KEPT = 20
MOST_KEPT_BYTES = 1 << 30
# Refusals that are remembered at all.
_MOST_KNOWN = 10_000
_SHOWN = 20
# A file that went away while it was read makes no copy that could be refused.
_PASSING = ("changed",)


@dataclass(frozen=True)
class Refusal:
    """One refused copy.

    `fingerprint` tells it from another one; empty while nobody could say. `is_vague` says that the remote's version
    does not move when a copy is written over. `folder` is where it is kept, empty if it is not.
    """

    remote: str
    namespace: str
    key: str
    reason: str
    version: str
    fingerprint: str
    is_vague: bool
    folder: str
    refused_at: float

    @property
    def name(self) -> ModuleName:
        return ModuleName(self.namespace, self.key)


class Refusals:
    """Every refusal of this host, in memory and in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[tuple[str, ModuleName], Refusal] = {}
        self._one_at_a_time = asyncio.Lock()

    async def load(self) -> None:
        """What earlier lives refused."""
        query = "SELECT * FROM refusals ORDER BY refused_at"
        rows = await self._database.run(lambda connection: connection.execute(query).fetchall())
        refusals = await asyncio.to_thread(_with_folders_that_are_there, [Refusal(*row) for row in rows])
        self._known = {(refusal.remote, refusal.name): refusal for refusal in refusals}

    def noted(self, remote: str, name: ModuleName) -> bool:
        """Whether a copy on that remote was refused and, as far as we know, is still the same. From any thread."""
        return (remote, name) in self._known

    async def stands(self, catalog: Catalog, name: ModuleName, *, look: bool = False) -> bool:
        """Whether the copy that the remote holds is one that was refused.

        Args:
            look: see what the remote holds now, even if nothing says that it changed.
        """
        refusal = self._known.get((catalog.name, name))
        if refusal is None:
            return False
        try:
            if catalog.version(name.namespace) is None:
                await catalog.look(name.namespace)
            version = catalog.version(name.namespace) or ""
            if version == refusal.version and not (look or refusal.is_vague):
                return True
            entry = await catalog.describe(name)
        except RemoteUnavailable:
            return True  # nobody can say: better compiled than fetched for nothing
        if entry is not None and fingerprint(entry) == refusal.fingerprint:
            if version != refusal.version:
                await self._save(replace(refusal, version=version))
            return True
        log.info("%s on remote %s is no longer the copy that was refused", name, catalog.name)
        await self._forget(refusal)
        return False

    async def refuse(
        self, catalog: Catalog, name: ModuleName, error: EntryRefused, staged: Path, staging: Path
    ) -> None:
        """Remember that the remote's copy was refused, and keep what was fetched of it.

        Args:
            staged: the fetched files; moved away if they are kept.
            staging: the staging folder to keep them in.
        """
        if error.reason in _PASSING:
            return
        version = catalog.version(name.namespace) or ""
        try:
            entry = await catalog.describe(name)
        except RemoteUnavailable:
            entry = None
        about = {
            "remote": catalog.name,
            "name": str(name),
            "reason": error.reason,
            "detail": str(error),
            "refused_at": time.time(),
        }
        is_vague = entry is not None and any(file.stamp is not None for file in entry.files)
        text = "" if entry is None else fingerprint(entry)
        async with self._one_at_a_time:  # what goes for another's sake may be what was kept just now
            folder, dropped = await asyncio.to_thread(_keep, staged, staging / FOLDER, name, about)
            for known in list(self._known.values()):
                if known.folder in dropped or known.folder == folder:
                    self._known[known.remote, known.name] = replace(known, folder="")
            refusal = Refusal(catalog.name, *name, error.reason, version, text, is_vague, str(folder), time.time())
            await self._save(refusal)

    def status(self, remote: str) -> dict[str, Any]:
        """For the status document: how many copies of a remote are refused, and the latest of them."""
        refused = [refusal for refusal in self._known.values() if refusal.remote == remote]
        latest = sorted(refused, key=lambda refusal: -refusal.refused_at)[:_SHOWN]
        shown = [
            {"name": str(refusal.name), "reason": refusal.reason, "folder": refusal.folder or None}
            for refusal in latest
        ]
        return {"count": len(refused), "shown": shown}

    async def _save(self, refusal: Refusal) -> None:
        self._known[refusal.remote, refusal.name] = refusal
        while len(self._known) > _MOST_KNOWN:
            await self._forget(next(iter(self._known.values())))
        marks = ",".join("?" * len(astuple(refusal)))
        await self._write(f"INSERT OR REPLACE INTO refusals VALUES ({marks})", astuple(refusal))

    async def _forget(self, refusal: Refusal) -> None:
        self._known.pop((refusal.remote, refusal.name), None)
        where = (refusal.remote, *refusal.name)
        await self._write("DELETE FROM refusals WHERE remote = ? AND namespace = ? AND key = ?", where)

    async def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        """What cannot be written, on a full disk, say, is known until the next start."""
        try:
            await self._database.run(lambda connection: connection.execute(statement, values))
        except sqlite3.Error as error:
            log.warning("refused copies cannot be noted: %s", error)


def fingerprint(entry: RemoteEntry) -> str:
    """A digest of what a remote states of its copy: another copy has another one."""
    facts = sorted((file.name, file.size_bytes, file.sha256, file.git_sha1, file.stamp) for file in entry.files)
    is_told_by_files = any(file.sha256 or file.git_sha1 or file.stamp for file in entry.files)
    # A commit moves with everything; where files say nothing, the revision is of this entry alone.
    text = json.dumps([facts, "" if is_told_by_files else entry.revision])
    return hashlib.sha256(text.encode()).hexdigest()


def _keep(staged: Path, base: Path, name: ModuleName, about: dict[str, Any]) -> tuple[str, set[str]]:
    """Move a refused copy below `base`; returns its folder, or an empty text, and the folders that had to go."""
    folder = base / name.namespace / name.key
    try:
        for ours in (base, folder.parent):
            ours.mkdir(mode=0o700, exist_ok=True)
        fsops.remove_tree(folder)
        staged.rename(folder)
        (folder / REASON_FILE).write_text(json.dumps(about, indent=2) + "\n")
    except OSError as error:
        log.warning("the refused copy of %s cannot be kept: %s", name, error)
        return "", set()
    dropped = {str(outdated) for outdated in _over_the_limits(base)}
    for outdated in dropped:
        fsops.remove_tree(Path(outdated))
    return "" if str(folder) in dropped else str(folder), dropped


def _over_the_limits(base: Path) -> Iterator[Path]:
    """Folders of refused copies that there is no room for: the oldest, and those that are too large by themselves."""
    found: list[tuple[int, Path, int]] = []
    for reason in base.glob(f"*/*/{REASON_FILE}"):
        with contextlib.suppress(OSError):  # somebody has looked at it, and removes it now
            size_bytes = sum(file.lstat().st_size for file in reason.parent.iterdir())
            found.append((reason.stat().st_mtime_ns, reason.parent, size_bytes))
    count, total_bytes = 0, 0
    for _, folder, size_bytes in sorted(found, reverse=True):
        if count >= MOST_KEPT or total_bytes + size_bytes > MOST_KEPT_BYTES:
            yield folder
        else:
            count, total_bytes = count + 1, total_bytes + size_bytes


def _with_folders_that_are_there(refusals: list[Refusal]) -> list[Refusal]:
    return [
        refusal if refusal.folder and Path(refusal.folder).is_dir() else replace(refusal, folder="")
        for refusal in refusals
    ]
