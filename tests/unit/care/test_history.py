"""The story of modules: written in groups, bounded, given back in order."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neffd.care import history
from neffd.care.history import Asker, History, names_noted
from neffd.fetch.flight import READY_HERE, Answer
from neffd.store.database import Database
from neffd.store.root import FileFacts
from tests.harness import entries
from tests.unit.clock import Clock

NAME, OTHER = entries.module(1), entries.module(2)
ABSENT = Answer(False, "not-on-remotes")


async def test_events_come_back_in_order_and_after_a_restart(database: Database) -> None:
    wall = Clock()
    story = History(database, wall=wall)
    story.note("/cache", NAME, "compiled", seconds=1.5)
    wall.pass_s(1)
    story.note("", NAME, "delivered", remote="team")
    story.note("/cache", OTHER, "compiled")
    await story.flush()
    found = await History(database, wall=wall).of(NAME, 10)
    assert [(event.at, event.root, event.what, dict(event.facts)) for event in found] == [
        (1000.0, "/cache", "compiled", {"seconds": 1.5}),
        (1001.0, "", "delivered", {"remote": "team"}),
    ]
    assert [event.what for event in await story.of(NAME, 1)] == ["delivered"]


async def test_an_event_whose_facts_are_damaged_is_damage_of_the_database(database: Database) -> None:
    story, told = History(database), list[BaseException]()
    story.note("/cache", NAME, "compiled", seconds=1.5)
    await story.flush()
    await database.run(lambda connection: connection.execute("UPDATE events SET facts = '{\"seconds\": '"))
    database.on_damage = told.append
    with pytest.raises(sqlite3.DatabaseError):
        await story.of(NAME, 10)
    assert len(told) == 1


async def test_the_ranks_of_a_user_that_are_told_the_same_are_one_event(database: Database) -> None:
    story = History(database)
    for pid in range(64):
        story.asked("/cache", NAME, Asker(pid, 1000, {"RANK": str(pid)}), ABSENT)
    story.asked("/cache", NAME, Asker(99, 1001), ABSENT)
    story.asked("/cache", NAME, Asker(1, 1000), READY_HERE)
    together, another_user, ready = await story.of(NAME, 10)
    assert together.facts == {
        "uid": 1000,
        "pids": list(range(8)),
        "times": 64,
        "job": {"RANK": "0"},
        "answer": "absent",
        "reason": "not-on-remotes",
    }
    assert another_user.facts["uid"] == 1001
    assert (ready.facts["answer"], ready.facts["source"]) == ("ready", "local")


async def test_noting_writes_nothing_by_itself_and_a_flood_is_bounded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_MAX_WAITING", 10)
    story = History(database)

    def run(work: object) -> None:
        raise AssertionError("noting must not write")

    with monkeypatch.context() as patch:
        patch.setattr(database, "run", run)
        for number in range(100):
            story.note("/cache", NAME, "compiled", number=number)
    assert len(await story.of(NAME, 1000)) == 10


async def test_only_the_newest_rows_are_kept(database: Database) -> None:
    story = History(database, max_rows=5)
    for number in range(12):
        story.note("/cache", NAME, "compiled", number=number)
        if number % 3 == 0:
            await story.flush()
    assert [event.facts["number"] for event in await story.of(NAME, 100)] == [7, 8, 9, 10, 11]


async def test_what_is_noted_once_is_one_row_over_restarts(database: Database) -> None:
    for failed_at in (1.0, 1.0, 2.0, 2.0):
        story = History(database)
        story.note("/cache", NAME, "failure-kept", once=True, failed_at=failed_at)
        await story.flush()
    assert len(await History(database).of(NAME, 10)) == 2


async def test_it_writes_by_itself_and_survives_a_disk_that_is_full(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_FLUSH_EVERY_S", 0.01)
    story, tried, written = History(database), asyncio.Event(), asyncio.Event()
    stock = database.run

    async def failing(work: object) -> None:
        tried.set()
        raise sqlite3.OperationalError("database or disk is full")

    async def working(work: object) -> None:
        await stock(work)  # type: ignore[arg-type]
        written.set()

    task = asyncio.create_task(story.run())  # noqa: TID251
    try:
        monkeypatch.setattr(database, "run", failing)
        story.note("/cache", NAME, "compiled", number=1)
        await asyncio.wait_for(tried.wait(), 10)
        monkeypatch.setattr(database, "run", working)
        story.note("/cache", NAME, "compiled", number=2)
        await asyncio.wait_for(written.wait(), 10)
    finally:
        task.cancel()
        await asyncio.wait({task})
    monkeypatch.setattr(database, "run", stock)
    assert [event.facts["number"] for event in await story.of(NAME, 10)] == [2]


def neff_made_at(seconds: float) -> FileFacts:
    return FileFacts(1, int(seconds * 1e9), 1, 0, 0)


async def test_a_measured_compile_is_forgotten_when_its_entry_was_taken_long_ago(database: Database) -> None:
    wall = Clock(5000.0)
    story = History(database, wall=wall)
    story.compiled("/cache", NAME, pid=7, uid=1000, seconds=120.0)
    wall.pass_s(599)
    story.compiled("/cache", OTHER, pid=7, uid=1000, seconds=1.0)
    assert story.compile_s("/cache", NAME, neff_made_at(5000.0)) == 120.0
    wall.pass_s(2)
    story.compiled("/cache", entries.module(3), pid=7, uid=1000, seconds=1.0)
    assert story.compile_s("/cache", NAME, neff_made_at(5000.0)) is None
    assert story.compile_s("/cache", OTHER, neff_made_at(5599.0)) == 1.0


async def test_a_measured_compile_counts_for_the_neff_that_it_made(database: Database) -> None:
    wall = Clock(5000.0)
    story = History(database, wall=wall)
    story.compiled("/cache", NAME, 4711, 1000, 120.0)
    assert story.compile_s("/cache", NAME, neff_made_at(4999.5)) == 120.0
    assert story.compile_s("/cache", NAME, neff_made_at(4870.0)) is None
    assert story.compile_s("/cache", NAME, neff_made_at(5010.0)) is None
    assert story.compile_s("/other", NAME, neff_made_at(4999.5)) is None
    assert story.compile_s("/cache", OTHER, neff_made_at(4999.5)) is None
    (event,) = await story.of(NAME, 10)
    assert event.facts == {"pid": 4711, "uid": 1000, "seconds": 120.0}


async def test_measurements_are_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_MAX_MEASURED", 3)
    wall = Clock(5000.0)
    story = History(database, wall=wall)
    for number in range(5):
        story.compiled("/cache", entries.module(number), 1, 0, 1.0)
    measured = [story.compile_s("/cache", entries.module(number), neff_made_at(5000.0)) for number in range(5)]
    assert measured == [None, None, 1.0, 1.0, 1.0]


async def test_names_are_found_by_their_beginning(database: Database) -> None:
    story = History(database)
    for number in range(30):
        story.note("/cache", entries.module(number), "compiled")
    await story.flush()
    found = await database.run(lambda connection: names_noted(connection, NAME.key[:-5], 50))
    assert NAME in found
    assert all(name.key.startswith(NAME.key[:-5]) for name in found)
    assert len(await database.run(lambda connection: names_noted(connection, "MODULE_", 7))) == 7
    assert await database.run(lambda connection: names_noted(connection, "MODULE_zzz", 7)) == []


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.booleans()), max_size=50))
def test_every_question_is_counted_once(asked: list[tuple[int, int, bool]]) -> None:
    async def check() -> None:
        story = History(None)  # type: ignore[arg-type]  # nothing is written
        for uid, number, is_ready in asked:
            story.asked("/cache", entries.module(number), Asker(1, uid), READY_HERE if is_ready else ABSENT)
        waiting = list(story._waiting.values())
        assert sum(event.facts["times"] for event in waiting) == len(asked)
        assert len(waiting) == len(set(asked))

    asyncio.run(check())
