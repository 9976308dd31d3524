"""Listings that are kept for the next start, also where the disk is full."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from neffd.catalog.saved import SavedListings
from neffd.store.database import Database

NAMESPACE = "neuronxcc-2.20.9961.0+0acef03a"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await asyncio.to_thread(Database, tmp_path / "state")
    yield opened
    await asyncio.to_thread(opened.close)


async def test_what_was_saved_is_loaded(database: Database) -> None:
    saved = SavedListings(database)
    await saved.save("hub", NAMESPACE, "v1", ["a", "b"])
    await saved.save("other", NAMESPACE, "v7", [])
    assert await saved.load("hub") == {NAMESPACE: ("v1", {"a", "b"})}
    assert await saved.load("other") == {NAMESPACE: ("v7", set())}


async def test_what_was_dropped_is_not_loaded_and_the_latest_comes_last(database: Database) -> None:
    saved = SavedListings(database)
    for namespace in ("a", "b", "c"):
        await saved.save("hub", namespace, "v1", ["key"])
    await saved.save("other", "b", "v1", ["key"])
    await saved.save("hub", "a", "v2", ["key"])
    await saved.drop("hub", ["b", "d"])
    assert list(await saved.load("hub")) == ["c", "a"]
    assert list(await saved.load("other")) == ["b"]


async def test_a_full_disk_keeps_the_old_listing_and_ends_nothing(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    saved = SavedListings(database)
    await saved.save("hub", NAMESPACE, "v1", ["a"])
    await database.run(lambda connection: connection.execute("PRAGMA max_page_count = 1").fetchone())
    await saved.save("hub", NAMESPACE, "v2", [f"key-{number}" for number in range(100_000)])
    assert "is not kept for the next start: database or disk is full" in caplog.text
    assert await saved.load("hub") == {NAMESPACE: ("v1", {"a"})}


async def test_very_many_keys_are_put_together_off_the_event_loop(database: Database) -> None:
    threads = set[int]()

    class Keys(list[str]):
        def __iter__(self) -> Iterator[str]:
            threads.add(threading.get_ident())
            return super().__iter__()

    many = [f"key-{number}" for number in range(10_000)]
    saved = SavedListings(database)
    await saved.save("hub", NAMESPACE, "v1", Keys(many))
    assert threads
    assert threading.get_ident() not in threads
    assert await saved.load("hub") == {NAMESPACE: ("v1", set(many))}
