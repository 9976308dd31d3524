"""The pusher: what it does about a remote, a journal or files that fail, and that it never loops."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

import pytest

from neff.keys import ModuleName
from neffd.metrics import Metrics
from neffd.publish import companions as riding
from neffd.publish.batch import Limits
from neffd.publish.journal import Journal
from neffd.publish.parking import is_whole
from neffd.publish.push import Pusher
from neffd.remotes.base import (
    NOT_TRIED,
    Access,
    EntryFailed,
    OutgoingEntry,
    PublishResult,
    Remote,
    RemoteUnavailable,
)
from neffd.store.root import CacheRoot
from tests.harness import entries
from tests.unit.publish.test_journal import insert, taken
from tests.unit.waiting import until


class Scripted:
    """A remote that does as it is told."""

    name = "one"

    def __init__(self) -> None:
        self.may = Access(can_write=True, public=False)
        self.trouble: RemoteUnavailable | None = None
        self.trouble_without_entries: RemoteUnavailable | None = None
        self.access_calls = 0
        self.batches: list[list[str]] = []

    async def access(self) -> Access:
        self.access_calls += 1
        if self.trouble is not None:
            raise self.trouble
        return self.may

    async def publish(
        self, outgoing: Sequence[OutgoingEntry], documents: Mapping[str, bytes]
    ) -> list[PublishResult | EntryFailed]:
        self.batches.append([entry.name.key for entry in outgoing])
        trouble = self.trouble if outgoing else self.trouble_without_entries
        if trouble is not None:
            raise trouble
        return [PublishResult.STORED] * (len(outgoing) + len(documents))


@contextlib.asynccontextmanager
async def pushing(remote: Scripted, journal: Journal, **options: object) -> AsyncIterator[Pusher]:
    limits = Limits(quiet_s=0.01, max_delay_s=1, max_bytes=10**9, max_files=1000)
    policy = {"allow_public": False, "existing": "private-only", **options}
    pusher = Pusher(_as_remote(remote), journal, Metrics(), limits, **policy)  # type: ignore[arg-type]
    task = asyncio.create_task(pusher.run())  # noqa: TID251
    try:
        yield pusher
        assert not task.done(), "the pusher ended by itself"
    finally:
        task.cancel()
        await asyncio.wait({task})


def _as_remote(remote: Scripted) -> Remote:
    return remote  # type: ignore[return-value]


async def test_what_an_earlier_life_left_goes_first(root: CacheRoot, journal: Journal) -> None:
    for number in range(3):
        await insert(journal, taken(root, number), "one")
    async with pushing(remote := Scripted(), journal) as pusher:
        await until(lambda: remote.batches and not pusher.waiting, "the pusher")
        assert [len(batch) for batch in remote.batches] == [3]
    assert await journal.remotes() == set()


async def test_what_is_under_way_is_as_old_as_it_was(root: CacheRoot, journal: Journal) -> None:
    """A commit that hangs must not look as if nothing had waited."""
    remote, answer = Scripted(), asyncio.Event()

    async def hang(*_: object) -> list[PublishResult]:
        await answer.wait()
        return [PublishResult.STORED]

    remote.publish = hang  # type: ignore[method-assign,assignment]
    async with pushing(remote, journal) as pusher:
        pusher.add(await insert(journal, taken(root, 1), "one"))
        await until(lambda: pusher.is_busy, "the pusher")
        assert pusher.oldest_s is not None
        answer.set()
        await until(lambda: not pusher.waiting, "the pusher")
        assert pusher.oldest_s is None


async def test_read_only_is_said_at_once_and_not_asked_for_ever(root: CacheRoot, journal: Journal) -> None:
    remote = Scripted()
    remote.may = Access(can_write=False, public=False, reason="no-write-access")
    async with pushing(remote, journal) as pusher:
        await until(lambda: pusher.trouble, "the pusher")
        assert pusher.trouble == "no-write-access", "before anything waits"
        for number in range(3):
            pusher.add(await insert(journal, taken(root, number), "one"))
            pusher.flush()
            await asyncio.sleep(0.05)
        assert remote.access_calls == 1
        assert remote.batches == []
        assert pusher.waiting == 3


async def test_a_remote_that_is_away_is_tried_ever_more_seldom_and_forgiven(root: CacheRoot, journal: Journal) -> None:
    remote = Scripted()
    remote.trouble = RemoteUnavailable("no-directory")
    async with pushing(remote, journal) as pusher:
        pusher.add(await insert(journal, taken(root, 1), "one"))
        await until(lambda: remote.access_calls >= 2, "the pusher")
        assert pusher.trouble == "no-directory"
        remote.trouble, asked = None, remote.access_calls
        await until(lambda: not pusher.waiting and pusher.trouble is None, "the pusher")
        assert remote.access_calls <= asked + 2


async def test_trouble_ends_without_anything_to_send(journal: Journal) -> None:
    remote = Scripted()
    remote.trouble = RemoteUnavailable("no-directory")
    async with pushing(remote, journal) as pusher:
        await until(lambda: pusher.trouble, "the pusher")
        remote.trouble = None
        await until(lambda: pusher.trouble is None, "the pusher")
    assert remote.batches == []


async def test_lost_files_do_not_hold_up_the_others(root: CacheRoot, journal: Journal) -> None:
    lost = taken(root, 1)
    await insert(journal, lost, "one")
    await insert(journal, taken(root, 2), "one")
    shutil.rmtree(lost.folder)
    async with pushing(remote := Scripted(), journal) as pusher:
        await until(lambda: remote.batches and not pusher.waiting, "the pusher")
        assert [len(batch) for batch in remote.batches] == [1]
        assert [kept.reason for kept in pusher.parked.values()] == ["files-lost"]


async def test_lost_files_that_are_there_again_are_sent(root: CacheRoot, journal: Journal) -> None:
    """Their file system was not mounted. They are looked for when that may be over, and not all the time."""
    lost, away = taken(root, 1), root.path / "away"
    await insert(journal, lost, "one")
    lost.folder.rename(away)
    remote = Scripted()
    remote.may = Access(can_write=True, public=True)  # what may not be told to everybody stays where it is
    told: list[str] = []
    options = {"allow_public": True, "on_outcome": lambda name, outcome: told.append(outcome)}
    async with pushing(remote, journal, **options) as pusher:
        await until(lambda: pusher.parked, "the pusher")
        pusher.look_for_lost()
        await until(lambda: told == ["files-lost"] * 2 and pusher.parked, "a look in vain")
        away.rename(lost.folder)
        pusher.look_again()
        await asyncio.sleep(0.05)
        assert remote.batches == []
        pusher.look_for_lost()
        await until(lambda: remote.batches and not pusher.waiting, "the pusher")
        assert pusher.parked == {}
    assert await journal.remotes() == set()


async def test_a_full_disk_does_not_make_it_forget_to_look_for_lost_files(
    root: CacheRoot, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, away, failed = taken(root, 1), root.path / "away", asyncio.Event()
    await insert(journal, lost, "one")
    lost.folder.rename(away)

    async def fail(*_: object) -> None:
        failed.set()
        raise sqlite3.OperationalError("database or disk is full")

    async with pushing(remote := Scripted(), journal) as pusher:
        await until(lambda: pusher.parked, "the pusher")
        away.rename(lost.folder)
        with monkeypatch.context() as patched:
            patched.setattr(journal, "unpark", fail)
            pusher.look_for_lost()
            await asyncio.wait_for(failed.wait(), 10)
        await until(lambda: remote.batches and not pusher.waiting, "the pusher")


async def test_files_that_cannot_be_looked_at_keep_no_others_back(
    root: CacheRoot, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their cache directory's mount is dead, and another's is not."""
    away = taken(root, 1)
    for entry in (away, taken(root, 2), taken(root, 3)):
        await insert(journal, entry, "one")

    def look(entry: OutgoingEntry) -> bool:
        if entry.directory == away.folder:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        return is_whole(entry)

    async with pushing(remote := Scripted(), journal) as pusher:
        with monkeypatch.context() as dead:
            dead.setattr("neffd.publish.push.is_whole", look)
            await until(lambda: pusher.trouble == "disk" and pusher.waiting == 1, "the others are sent")
            assert [len(batch) for batch in remote.batches] == [2]
        await until(lambda: not pusher.waiting and pusher.trouble is None, "and this one when it is back")
    assert await journal.remotes() == set()


async def test_lost_files_are_looked_for_after_a_start(root: CacheRoot, journal: Journal) -> None:
    lost, away = taken(root, 1), root.path / "away"
    await insert(journal, lost, "one")
    lost.folder.rename(away)
    for _ in range(2):
        async with pushing(remote := Scripted(), journal) as pusher:
            await until(lambda: pusher.parked and not pusher.waiting, "the pusher")
            assert remote.batches == []
    away.rename(lost.folder)
    async with pushing(remote := Scripted(), journal) as pusher:
        await until(lambda: remote.batches and not pusher.waiting, "the pusher")


async def test_what_is_looked_for_where_nothing_may_be_sent_makes_no_haste(root: CacheRoot, journal: Journal) -> None:
    lost = taken(root, 1)
    await insert(journal, lost, "one")
    shutil.rmtree(lost.folder)
    remote = Scripted()
    async with pushing(remote, journal) as pusher:
        await until(lambda: pusher.parked, "the pusher")
        remote.may, pusher.access = Access(can_write=False, public=True, reason="no-write-access"), None
        asked = remote.access_calls
        pusher.look_for_lost()
        await until(lambda: remote.access_calls > asked and pusher.trouble, "the pusher")
        for _ in range(5):
            pusher.look_for_lost()
            await asyncio.sleep(0.02)
        assert remote.access_calls == asked + 1


async def test_a_journal_that_cannot_be_written_is_trouble_not_the_end(
    root: CacheRoot, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*args: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    await insert(journal, taken(root, 1), "one")
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "close", fail)
        async with pushing(remote := Scripted(), journal) as pusher:
            await until(lambda: pusher.trouble == "disk", "the pusher")
            patch.undo()
            await until(lambda: not pusher.waiting, "the pusher")
            assert 2 <= len(remote.batches) <= 3
    assert await journal.remotes() == set()


async def test_what_belongs_to_private_models_stays_off_public_remotes(root: CacheRoot, journal: Journal) -> None:
    remote = Scripted()
    remote.may = Access(can_write=True, public=True)
    first, second = taken(root, 1), taken(root, 2)
    private = {first.name}
    for each in (first, second):
        await insert(journal, each, "one")
    policy = {"allow_public": True, "is_private": private.__contains__}
    async with pushing(remote, journal, **policy) as pusher:
        await until(lambda: remote.batches and not pusher.waiting, "the pusher")
        assert remote.batches == [[second.name.key]]
        assert [(kept.name, kept.reason) for kept in pusher.parked.values()] == [(first.name, "private-model")]
        pusher.add(await insert(journal, taken(root, 3), "one"))
        await until(lambda: len(remote.batches) == 2 and not pusher.waiting, "the pusher")
        assert len(pusher.parked) == 1
    async with pushing(remote, journal, **policy, allow_private_models=True) as pusher:
        await until(lambda: remote.batches[-1:] == [[first.name.key]], "the pusher")
        await until(lambda: not pusher.parked, "the pusher")


async def test_a_model_that_is_private_no_more_is_sent(root: CacheRoot, journal: Journal) -> None:
    remote = Scripted()
    remote.may = Access(can_write=True, public=True)
    first = taken(root, 1)
    private = {first.name}
    await insert(journal, first, "one")
    async with pushing(remote, journal, allow_public=True, is_private=private.__contains__) as pusher:
        await until(lambda: pusher.parked, "the pusher")
        private.clear()
        pusher.add(await insert(journal, taken(root, 2), "one"))
        await until(lambda: sum(map(len, remote.batches)) == 2, "the pusher")
        assert pusher.parked == {}


async def test_what_is_held_back_goes_by_itself_when_its_model_is_public(root: CacheRoot, journal: Journal) -> None:
    remote = Scripted()
    remote.may = Access(can_write=True, public=True)
    first = taken(root, 1)
    private, asked = {first.name}, list[Collection[ModuleName]]()

    async def find_out(names: Collection[ModuleName]) -> None:
        asked.append(names)

    await insert(journal, first, "one")
    policy = {"allow_public": True, "is_private": private.__contains__, "find_out": find_out}
    async with pushing(remote, journal, **policy) as pusher:
        await until(lambda: pusher.parked, "the pusher")
        assert asked == [[first.name]]
        remote.trouble = RemoteUnavailable("server-error")
        private.clear()
        pusher.look_again()
        await until(lambda: pusher.writes.reason, "an attempt")
        attempts = len(remote.batches)
        assert 1 <= attempts <= 2, "a remote in trouble is given a rest all the same"
        remote.trouble = None
        await until(lambda: not pusher.waiting and not pusher.parked, "the pusher")
    asked.clear()
    second = taken(root, 2)
    await insert(journal, second, "one")
    async with pushing(remote, journal, **policy, allow_private_models=True) as pusher:
        await until(lambda: remote.batches[-1:] == [[second.name.key]], "the pusher")
    assert asked == [], "whose it is does not matter there"


class Riding:
    """Documents that wait to go with entries, and what became of them."""

    due_in_s: float | None = None
    ready = 0

    def __init__(self) -> None:
        self.documents = {"path": b"content"}
        self.went_with: list[tuple[dict[str, object], bool]] = []
        self.on_change: Callable[[], None] = lambda: None
        self.postponements = 0
        self.is_public: bool | None = None
        self.hangs = False
        self.fault: Exception | None = None

    def status(self) -> dict[str, object]:
        return {}

    async def load(self) -> None:
        pass

    def access(self, is_public: bool) -> None:
        self.is_public = is_public

    def flush(self) -> None:
        self.due_in_s = 0

    async def riding(self, names: Collection[ModuleName]) -> Mapping[str, bytes]:
        if self.hangs:
            await asyncio.Event().wait()
        if self.fault is not None:
            raise self.fault
        return self.documents

    async def alone(self) -> Mapping[str, bytes]:
        self.due_in_s = None
        return self.documents

    async def went(self, outcomes: Mapping[str, object], *, alone: bool) -> None:
        self.went_with.append((dict(outcomes), alone))

    def postponed(self, error: RemoteUnavailable) -> None:
        self.postponements += 1


async def test_documents_ride_on_a_batch_or_go_alone(root: CacheRoot, journal: Journal) -> None:
    companions = Riding()
    await insert(journal, taken(root, 1), "one")
    async with pushing(remote := Scripted(), journal, companions=companions) as pusher:
        await until(lambda: remote.batches and not pusher.waiting, "the pusher")
        await until(lambda: companions.went_with, "the document")
        assert companions.is_public is False
        pusher.flush()
        await until(lambda: len(companions.went_with) == 2, "the document alone")
    assert companions.went_with == [({"path": PublishResult.STORED}, False), ({"path": PublishResult.STORED}, True)]
    assert [len(batch) for batch in remote.batches] == [1, 0]


async def test_documents_never_hold_entries_up(
    root: CacheRoot, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(riding, "LIMIT_S", 0.01)
    companions = Riding()
    companions.hangs = True
    await insert(journal, taken(root, 1), "one")
    async with pushing(remote := Scripted(), journal, companions=companions) as pusher:
        await until(lambda: remote.batches and not pusher.waiting, "the pusher")
        await until(lambda: pusher.trouble is None, "the pusher")
        remote.trouble_without_entries = RemoteUnavailable("server-error")
        pusher.flush()
        await until(lambda: companions.postponements, "the document alone")
        assert (pusher.trouble, pusher.writes.reason) == (None, None)
    assert companions.went_with == []


class Picky(Scripted):
    """A remote that always fails at one entry: with others it settles those, alone it settles nothing."""

    def __init__(self, poison: ModuleName, error: RemoteUnavailable) -> None:
        super().__init__()
        self._poison, self._error = poison, error

    async def publish(
        self, outgoing: Sequence[OutgoingEntry], documents: Mapping[str, bytes]
    ) -> list[PublishResult | EntryFailed]:
        stored = await super().publish(outgoing, documents)
        names = [entry.name for entry in outgoing]
        if names == [self._poison]:
            raise self._error
        if self._poison not in names:
            return stored
        failed, untried = EntryFailed(self._error.reason, permanent=False), EntryFailed(NOT_TRIED, permanent=False)
        of_entries = [failed if name == self._poison else PublishResult.STORED for name in names]
        return [*of_entries, *[untried] * len(documents)]


@pytest.mark.parametrize(("number_of_others", "reason"), [(0, "server-error"), (1, "being-written")])
async def test_documents_have_their_turn_while_one_entry_always_fails(
    root: CacheRoot, journal: Journal, number_of_others: int, reason: str
) -> None:
    companions, poison = Riding(), taken(root, 1)
    companions.due_in_s = 0
    await insert(journal, poison, "one")
    for number in range(number_of_others):
        await insert(journal, taken(root, 2 + number), "one")
    remote = Picky(poison.name, RemoteUnavailable(reason))
    async with pushing(remote, journal, companions=companions) as pusher:
        await until(lambda: ({"path": PublishResult.STORED}, True) in companions.went_with, "the document alone")
        assert pusher.trouble == reason


@pytest.mark.parametrize(
    "error",
    [RemoteUnavailable("unreachable"), RemoteUnavailable("server-error", retry_after_s=3_600)],
    ids=["away", "wants a rest"],
)
async def test_documents_do_not_ask_a_remote_that_is_not_to_be_asked(
    root: CacheRoot, journal: Journal, error: RemoteUnavailable
) -> None:
    companions, one = Riding(), taken(root, 1)
    companions.due_in_s = 0
    await insert(journal, one, "one")
    async with pushing(remote := Picky(one.name, error), journal, companions=companions) as pusher:
        await until(lambda: pusher.trouble and not pusher.is_busy, "the pusher")
    assert remote.batches == [[one.name.key]]
    assert companions.due_in_s == 0, "nobody asked for it"


async def test_a_fault_in_finding_documents_stops_no_entry(root: CacheRoot, journal: Journal) -> None:
    companions = Riding()
    companions.fault = ZeroDivisionError()
    await insert(journal, taken(root, 1), "one")
    async with pushing(remote := Scripted(), journal, companions=companions) as pusher:
        await until(lambda: remote.batches and not pusher.waiting, "the pusher")
    assert remote.batches == [[entries.module(1).key]]


@pytest.mark.parametrize("public", [True, None])
async def test_nothing_goes_to_a_public_remote_until_it_is_private(
    root: CacheRoot, journal: Journal, public: bool | None
) -> None:
    remote = Scripted()
    remote.may = Access(can_write=True, public=public)
    await insert(journal, taken(root, 1), "one")
    async with pushing(remote, journal) as pusher:
        await until(lambda: pusher.parked, "the pusher")
        assert [kept.reason for kept in pusher.parked.values()] == ["public-repo"]
        assert remote.batches == []
    remote.may = Access(can_write=True, public=False)
    async with pushing(remote, journal) as pusher:
        pusher.add(await insert(journal, taken(root, 2), "one"))
        await until(lambda: sum(map(len, remote.batches)) == 2, "the pusher")
        assert pusher.parked == {}
