"""The answer to `neff why`: everything that this host knows of one module, as one document.

Its form is described in docs/protocol.md.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol, TypeVar

from neff import keys
from neff.keys import ModuleName
from neff.protocol import Message
from neffd.care import nearest
from neffd.care.failed_entries import FailedEntries
from neffd.care.history import Event, History, names_noted
from neffd.store.database import Database
from neffd.store.root import CacheRoot

_T = TypeVar("_T")

_MOST_EVENTS = 50
_MOST_MATCHES = 20
_MOST_FOUND = 1_000
# Fewer characters than this would match half of everything.
_PART_OF_KEY = re.compile(r"[0-9A-Za-z_+-]{4,140}")
_PREFIX = "MODULE_"
# A listing that nobody needs may be this old.
_LISTED_WITHIN_S = 600.0
_CONFIRMED = frozenset({"stored", "already-there"})


class Place(Protocol):
    """One cache directory."""

    root: CacheRoot
    failed: FailedEntries


class Listing(Protocol):
    """What is known of one remote: `neffd.catalog.catalog.Catalog`."""

    @property
    def trouble(self) -> str | None: ...

    def knows(self, namespace: str, key: str) -> bool: ...

    def knows_absent(self, namespace: str, key: str) -> bool: ...

    def keys_starting(self, start: str, most: int) -> list[tuple[str, str]]: ...


class Stories:
    """Tells the story of modules.

    Args:
        places: the cache directories.
        listings: name and catalog of every remote.
        wall: seconds since the epoch.
    """

    def __init__(
        self,
        history: History,
        database: Database,
        workers: Executor,
        *,
        places: Callable[[], Sequence[Place]],
        listings: Callable[[], Sequence[tuple[str, Listing]]],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._wall = wall
        self._history = history
        self._database = database
        self._workers = workers
        self._places = places
        self._listings = listings

    async def why(self, text: str) -> Message:
        """The document for a name, a bare key, or the unique beginning of one."""
        matches = await self._matches(text)
        if len(matches) != 1:
            shown = matches[:_MOST_MATCHES]
            return {"known": False, "matches": [str(name) for name in shown], "more": len(matches) - len(shown)}
        return await self._story(matches[0])

    async def _matches(self, text: str) -> list[ModuleName]:
        namespace, slash, key = text.rpartition("/")
        if (slash and not keys.is_namespace(namespace)) or not _PART_OF_KEY.fullmatch(key):
            return []
        if slash and keys.is_module_key(key):
            return [ModuleName(namespace, key)]
        start = key if key.startswith(_PREFIX[:-1]) else _PREFIX + key
        found = await self._starting(start)
        exact = [name for name in found if name.key == start]
        return [name for name in exact or found if not slash or name.namespace == namespace]

    async def _starting(self, start: str) -> list[ModuleName]:
        """Modules that this host has heard of whose key begins with `start`."""
        noted = await self._database.run(lambda connection: names_noted(connection, start, _MOST_FOUND))
        here = await self._in_worker(_folders, [place.root for place in self._places()], start)
        remote = [
            ModuleName(*name) for _, listing in self._listings() for name in listing.keys_starting(start, _MOST_FOUND)
        ]
        return sorted({*noted, *here, *remote})

    async def _story(self, name: ModuleName) -> Message:
        events = await self._history.of(name, _MOST_EVENTS)
        indexed, open_deliveries = await self._database.run(lambda connection: _rows(connection, name))
        here = [await self._here(place, name, indexed) for place in self._places()]
        delivered = self._delivered(events)
        remotes = [
            {**_remote(remote, listing, name, remote in delivered), **open_deliveries.get(remote, {})}
            for remote, listing in self._listings()
        ]
        known = bool(events or indexed or open_deliveries)
        known = known or any(part["state"] != "absent" for part in here) or any(part["holds"] for part in remotes)
        story: Message = {
            "name": str(name),
            "known": known,
            "here": here,
            "remotes": remotes,
            "events": [_told(event) for event in events],
        }
        if not any(part["state"] == "ready" for part in here):
            story["nearest"] = await self._nearest(name)
        return story

    async def _here(self, place: Place, name: ModuleName, indexed: dict[str, Message]) -> Message:
        looks = await self._in_worker(place.root.inspect, name)
        state = looks.state.value if looks.folder_exists else "absent"
        part: Message = {"root": str(place.root.path), "state": state, **indexed.get(str(place.root.path), {})}
        kept = place.failed.kept(name)
        if kept is not None:
            failure = {"reason": kept.failure.reason, "text": kept.failure.text}
            part["failure"] = {**failure, "kept": kept.reason, "retried": kept.retried, "hint": kept.hint}
        elif retried := place.failed.retried(name):
            part["retried"] = retried
        return part

    def _delivered(self, events: Iterable[Event]) -> set[str]:
        """The remotes that have lately confirmed it: their listings may be older."""
        since = self._wall() - _LISTED_WITHIN_S
        return {
            str(event.facts.get("remote"))
            for event in events
            if event.what == "delivered" and event.at > since and event.facts.get("outcome") in _CONFIRMED
        }

    async def _nearest(self, name: ModuleName) -> Message:
        """The same graph with other flags under this compiler, and the same key under others."""
        found = [other for other in await self._starting(nearest.same_graph(name)) if other != name]
        other_flags = [other for other in found if other.namespace == name.namespace][: nearest.MOST]
        roots = [place.root for place in self._places()]
        differences = await self._in_worker(_differences, roots, name, other_flags)
        others = [other.namespace for other in found if other.key == name.key][: nearest.MOST]
        return {"other_flags": differences, "other_compilers": others}

    async def _in_worker(self, work: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work, *args)


def _remote(remote: str, listing: Listing, name: ModuleName, was_delivered: bool) -> Message:
    holds = True if was_delivered or listing.knows(*name) else False if listing.knows_absent(*name) else None
    return {"name": remote, "holds": holds, "trouble": listing.trouble}


def _folders(roots: Iterable[CacheRoot], start: str) -> list[ModuleName]:
    return [
        ModuleName(namespace, key)
        for root in roots
        for namespace in root.namespaces()
        for key in root.module_keys(namespace)
        if key.startswith(start)
    ]


def _differences(roots: Sequence[CacheRoot], name: ModuleName, others: Sequence[ModuleName]) -> list[Message]:
    asked = nearest.read_flags(roots, name)
    return [{"name": str(other), **nearest.difference(asked, nearest.read_flags(roots, other))} for other in others]


def _rows(connection: sqlite3.Connection, name: ModuleName) -> tuple[dict[str, Message], dict[str, Message]]:
    """What index and journal hold: by cache directory, and by remote."""
    where = "namespace = ? AND key = ?"
    entries = connection.execute(f"SELECT root, origin, compile_s, noted_at FROM entries WHERE {where}", name)
    indexed = {
        root: {"origin": origin, "compile_s": compile_s, "noted_at": noted_at}
        for root, origin, compile_s, noted_at in entries
    }
    open_rows = connection.execute(
        f"SELECT remote, parked_reason, queued_at FROM outbox JOIN deliveries ON outbox_id = id WHERE {where}", name
    )
    return indexed, {remote: {"parked": parked, "waiting_since": since} for remote, parked, since in open_rows}


def _told(event: Event) -> dict[str, Any]:
    return {**event.facts, "at": round(event.at, 3), "what": event.what, "root": event.root}
