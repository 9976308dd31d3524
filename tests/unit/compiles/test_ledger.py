"""What outlives the daemon, and that a lock held for a moment costs no disk."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neff.keys import LockId
from neffd.compiles.board import Place
from neffd.compiles.ledger import Held, Ledger, Seen
from neffd.store.database import Database
from tests.harness import entries

PLACES = [Place("/cache", entries.module(number)) for number in (1, 2)]
HELD = Held(4711, 1000, 55, "1:2", "boot", LockId(3, 4))
SEEN = Seen(LockId(5, 6), "boot")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await asyncio.to_thread(Database, tmp_path)
    yield database
    database.close()


async def test_what_was_written_is_read_again(database: Database) -> None:
    ledger = Ledger(database)
    ledger.held(PLACES[0], HELD)
    ledger.held(PLACES[1], HELD._replace(start_time=None, pid_space=None))
    ledger.seen(PLACES[1], SEEN)
    before = ledger.is_dirty
    await ledger.flush()
    assert (before, ledger.is_dirty) == (True, False)
    held, seen, _ = await asyncio.to_thread(Ledger(database).load)
    assert held == {PLACES[0]: HELD, PLACES[1]: HELD._replace(start_time=None, pid_space=None)}
    assert seen == {PLACES[1]: SEEN}


async def test_what_ends_before_it_is_written_is_never_written(database: Database) -> None:
    ledger = Ledger(database)
    ledger.held(PLACES[0], HELD)
    ledger.held(PLACES[0], None)
    ledger.seen(PLACES[0], SEEN)
    ledger.seen(PLACES[0], None)
    assert not ledger.is_dirty
    assert ledger.seen_places == set()


async def test_what_ends_while_it_is_written_is_taken_out_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, write = Ledger(database), database.run
    ledger.held(PLACES[0], HELD)

    async def ends_meanwhile(work: Callable[[sqlite3.Connection], None]) -> None:
        await write(work)
        ledger.held(PLACES[0], None)

    with monkeypatch.context() as patch:
        patch.setattr(database, "run", ends_meanwhile)
        await ledger.flush()
    await ledger.flush()
    assert (await asyncio.to_thread(Ledger(database).load))[0] == {}


async def test_a_full_disk_forgets_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(database)
    ledger.held(PLACES[0], HELD)

    async def fails(work: object) -> None:
        ledger.held(PLACES[1], HELD)  # meanwhile
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(database, "run", fails)
        with pytest.raises(sqlite3.OperationalError):
            await ledger.flush()
    await ledger.flush()
    held, _, _ = await asyncio.to_thread(Ledger(database).load)
    assert set(held) == set(PLACES)


_steps = st.lists(
    st.tuples(st.sampled_from(["held", "free", "seen", "unseen", "flush", "restart"]), st.sampled_from(PLACES)),
    max_size=30,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=_steps)
async def test_the_tables_hold_what_was_said_last(tmp_path: Path, steps: list[tuple[str, Place]]) -> None:
    database = await asyncio.to_thread(Database, tmp_path)
    try:
        ledger = Ledger(database)
        await asyncio.to_thread(ledger.load)
        for place in PLACES:
            ledger.held(place, None)
            ledger.seen(place, None)
        await ledger.flush()
        held: dict[Place, Held] = {}
        seen: dict[Place, Seen] = {}
        for step, place in steps:
            if step == "held":
                ledger.held(place, HELD)
                held[place] = HELD
            elif step == "free":
                ledger.held(place, None)
                held.pop(place, None)
            elif step == "seen":
                ledger.seen(place, SEEN)
                seen[place] = SEEN
            elif step == "unseen":
                ledger.seen(place, None)
                seen.pop(place, None)
            else:
                await ledger.flush()
                if step == "restart":
                    ledger = Ledger(database)
                    assert (await asyncio.to_thread(ledger.load))[:2] == (held, seen)
            assert ledger.seen_places == set(seen)
        await ledger.flush()
        assert (await asyncio.to_thread(Ledger(database).load))[:2] == (held, seen)
    finally:
        database.close()
