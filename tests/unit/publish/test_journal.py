"""The journal: nothing leaves it before the last remote has confirmed, and nothing is lost when the process ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

from neffd.publish.batch import Item
from neffd.publish.journal import Journal, Taken
from neffd.publish.take import Trust, take
from neffd.store.database import Database
from neffd.store.index import EXISTING, LOCAL, Index
from neffd.store.root import CacheRoot
from tests.harness import entries


def taken(root: CacheRoot, number: int, origin: str = LOCAL, *, seed: int | None = None) -> Taken:
    name = entries.module(number)
    entries.write(root.path, name, entries.files(name, seed=number if seed is None else seed))
    return take(root, name, root.inspect(name), Trust.of(root.path, None, None), origin=origin)


async def insert(journal: Journal, what: Taken, *remotes: str) -> Item:
    return await asyncio.to_thread(journal.insert_blocking, what, remotes)


async def test_a_row_goes_with_the_last_remotes_confirmation_and_its_files_after_it(
    root: CacheRoot, journal: Journal
) -> None:
    first = taken(root, 1)
    item = await insert(journal, first, "one", "two")
    assert await journal.open_items("one") == await journal.open_items("two") == [item]
    await journal.close(item, "one")
    assert await journal.open_items("one") == []
    assert await journal.open_items("two") == [item]
    assert first.folder.is_dir()
    await journal.close(item, "one")  # a lost answer may be repeated
    assert first.folder.is_dir()
    await journal.close(item, "two")
    assert await journal.remotes() == set()
    assert not first.folder.exists()
    assert await asyncio.to_thread(journal.folders_blocking) == set()


async def test_parked_is_out_of_the_queue_of_one_remote_only(root: CacheRoot, journal: Journal) -> None:
    item = await insert(journal, taken(root, 1), "one", "two")
    await journal.park(item, "one", "public-repo")
    assert await journal.open_items("one") == []
    assert await journal.load([item], "one") == []
    assert await journal.open_items("two") == [item]
    (parked,) = (await journal.parked("one")).values()
    assert (parked.name, parked.remote, parked.reason) == (entries.module(1), "one", "public-repo")
    assert await journal.parked("two") == {}
    await journal.close(item, "two")
    assert await journal.remotes() == {"one"}, "what is parked is kept"
    await journal.unpark("one", ["something-else"])
    assert await journal.open_items("one") == []
    await journal.unpark("one", ["something-else", "public-repo"])
    assert await journal.open_items("one") == [item]
    assert await journal.parked("one") == {}


async def test_everything_is_there_after_reopening(tmp_path: Path, root: CacheRoot) -> None:
    state = tmp_path / "state"
    database = Database(state)
    journal = Journal(database, Index(database))
    items = [await insert(journal, taken(root, number), "one", "two") for number in range(4)]
    old = await insert(journal, taken(root, 4, EXISTING), "one")
    await journal.close(items[0], "one")
    await journal.park(items[1], "one", "namespace-full")
    await journal.close(items[2], "one")
    await journal.close(items[2], "two")
    database.close()
    database = Database(state)
    journal = Journal(database, Index(database))
    try:
        assert await journal.open_items("one") == [items[3], old]
        assert await journal.open_items("two") == [items[0], items[1], items[3]]
        assert {kept.reason for kept in (await journal.parked("one")).values()} == {"namespace-full"}
        rows = await journal.load([items[3], old], "one")
        assert [row.existing for row in rows] == [False, True]
        assert [row.entry.name for row in rows] == [entries.module(3), entries.module(4)]
        assert set(rows[0].entry.provenance.files) == set(entries.files(entries.module(3)))
        assert await asyncio.to_thread(journal.folders_blocking) == {
            folder for folder in (root.staging / "outbox").iterdir()
        }
        again = await insert(journal, taken(root, 5), "one")
        assert again.id > old.id, "numbers are never used again"
    finally:
        database.close()


async def test_an_entry_in_the_journal_is_known_to_the_index(root: CacheRoot, journal: Journal, index: Index) -> None:
    what = taken(root, 1)
    await insert(journal, what, "one")
    known = await asyncio.to_thread(index.known, root.path, what.name)
    assert known is not None
    assert known.was_taken
    assert known.is_same(what.neff)
    assert known.file_names == frozenset(entries.files(what.name))


async def test_a_newer_copy_replaces_one_whose_pinned_files_can_never_be_sent(
    root: CacheRoot, journal: Journal
) -> None:
    hopeless, elsewhere = taken(root, 1), taken(root, 2)
    await journal.park(await insert(journal, hopeless, "one"), "one", "changed-locally")
    await journal.park(await insert(journal, elsewhere, "one"), "one", "public-repo")
    newer = await insert(journal, taken(root, 1), "one")
    assert await journal.open_items("one") == [newer]
    assert [kept.name for kept in (await journal.parked("one")).values()] == [entries.module(2)]
    assert not hopeless.folder.exists()
    assert elsewhere.folder.exists()


async def test_what_was_written_over_is_not_kept_for_ever_when_what_is_there_now_has_gone(
    root: CacheRoot, journal: Journal
) -> None:
    """That the pinned files are others by now may come to light when the newer ones have already gone."""
    before, alone = taken(root, 1), taken(root, 2)
    old, other = await insert(journal, before, "one", "two"), await insert(journal, alone, "one")
    await journal.close(await insert(journal, taken(root, 1, seed=9), "one"), "one")
    assert not await journal.park(old, "one", "changed-locally")
    assert await journal.park(old, "two", "public-repo"), "a reason that is not the files'"
    assert await journal.park(other, "one", "changed-locally"), "of which nothing newer was taken"
    assert {kept.name for kept in (await journal.parked("one")).values()} == {alone.name}
    assert {kept.reason for kept in (await journal.parked("two")).values()} == {"public-repo"}
    assert not await journal.park(old, "two", "files-lost")
    assert not before.folder.exists()
    assert alone.folder.exists()
