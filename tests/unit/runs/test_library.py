"""Finding manifests: bounded whatever a remote holds, and one remote's trouble is not another's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import cast

import pytest

from neffd.catalog.catalog import Catalog
from neffd.config import RemoteConfig
from neffd.config_sections import UploadConfig
from neffd.fetch.fetcher import Source
from neffd.metrics import Metrics
from neffd.remotes.base import Document, Remote, RemoteUnavailable
from neffd.runs import manifests, reading
from neffd.runs.library import Found, Library
from neffd.runs.manifests import Manifest, union
from neffd.runs.shelf import FORGOTTEN_AFTER_S, Shelf
from neffd.runs.turns import FIRST_RETRY_S
from neffd.store.database import Database
from neffd.tasks import Tasks
from tests.harness import entries
from tests.unit.clock import Clock
from tests.unit.runs.test_manifests import INGREDIENTS, RUN_KEY, manifest


class Memory:
    """A remote that holds documents in memory, may hang, and counts what it is asked. Its own catalog, too."""

    trouble: str | None = None

    def __init__(self, name: str, *held: Manifest) -> None:
        self.name = name
        self.files: dict[str, bytes] = {}
        self.listings = 0
        self.read: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.error: Exception | None = None
        self.put(*held)

    def knows(self, namespace: str, key: str) -> bool:
        return True

    def put(self, *held: Manifest) -> None:
        self.files |= {manifests.path_of(one): manifests.encode(one) for one in held}

    async def documents(self, folder: str) -> list[Document]:
        self.listings += 1
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        below = {path: data for path, data in self.files.items() if path.startswith(f"{folder}/")}
        return [Document(path, len(data), str(hash(data))) for path, data in below.items()]

    async def read_documents(self, documents: Sequence[Document], max_bytes: int) -> list[bytes | None]:
        self.read += [document.path for document in documents]
        return [self.files.get(document.path) for document in documents]

    @property
    def source(self) -> Source:
        return Source(cast(Remote, self), cast(Catalog, self))


MakeSearcher = Callable[..., "Searcher"]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    tasks = Tasks()
    yield tasks
    await tasks.stop(1.0)


class Searcher:
    """A library over remotes in memory."""

    def __init__(self, database: Database, tasks: Tasks, clock: Clock, remotes: Sequence[Memory]) -> None:
        self.metrics = Metrics()
        self.clock = clock
        sources = [remote.source for remote in remotes]
        self.library = Library(database, tasks, self.metrics, sources, clock)

    async def find(self, run_key: str = RUN_KEY, ingredients: dict[str, object] | None = None) -> Found:
        self.clock.pass_s(1)
        return await self.library.find(entries.NAMESPACE, run_key, INGREDIENTS if ingredients is None else ingredients)


@pytest.fixture
def make(database: Database, tasks: Tasks, clock: Clock) -> MakeSearcher:
    """Makes a library over remotes in memory."""
    return lambda *remotes: Searcher(database, tasks, clock, remotes)


def key(number: int) -> str:
    return f"RUN_{number:032x}"


async def test_who_joins_a_reading_hears_what_it_has_read_however_much_is_read_meanwhile(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_PICTURES_KEPT", 2)
    remote = Memory("one", manifest(1, 2))
    reader = reading.Reader(tasks, Metrics(), Clock())

    def look(run_key: str) -> asyncio.Task[reading.Looked]:
        wanted = reading.Wanted(entries.NAMESPACE, run_key, INGREDIENTS)
        return tasks.start(reader.look(remote.source, wanted), name="look", watched=True)

    remote.may_answer.clear()
    first = look(RUN_KEY)
    await asyncio.sleep(0)
    others = [look(key(number)) for number in range(4)]
    await asyncio.sleep(0)
    second = look(RUN_KEY)
    await asyncio.sleep(0)
    remote.may_answer.set()
    await asyncio.gather(*others)
    assert [(await seen).same_key for seen in (first, second)] == [(manifest(1, 2),)] * 2


async def test_a_key_alone_finds_its_manifests_of_whatever_model(make: MakeSearcher) -> None:
    searcher = make(Memory("one", manifest(1, 2), manifest(3, run_key=key(1))))
    assert (await searcher.find(ingredients={})).same_key == [manifest(1, 2)]


async def test_each_manifest_is_read_once(make: MakeSearcher) -> None:
    remote = Memory("one", manifest(1, 2))
    searcher = make(remote)
    for _ in range(3):
        assert (await searcher.find()).same_key == [manifest(1, 2)]
    assert (remote.listings, len(remote.read)) == (3, 1)
    remote.put(manifest(2, 3))
    assert len((await searcher.find()).same_key) == 2
    assert len(remote.read) == 2
    assert searcher.metrics.value("neffd_manifests_read_total", remote="one") == 2


async def test_who_asks_together_asks_once(make: MakeSearcher) -> None:
    remote = Memory("one", manifest(1))
    searcher = make(remote)
    found = await asyncio.gather(*(searcher.library.find(entries.NAMESPACE, RUN_KEY, INGREDIENTS) for _ in range(20)))
    assert all(one.same_key for one in found)
    assert remote.listings == 1


async def test_a_remote_that_hangs_delays_no_other(make: MakeSearcher, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, quick = Memory("slow", manifest(2)), Memory("quick", manifest(1))
    slow.may_answer.clear()
    searcher = make(slow, quick)
    monkeypatch.setattr(reading, "PATIENCE_S", 0.05)
    found = await searcher.find()
    while "quick" in found.away:  # whose thread had no turn in so short a time
        found = await searcher.find()
    assert (found.same_key, found.away) == ([manifest(1)], ["slow"])
    monkeypatch.undo()
    slow.may_answer.set()
    found = await searcher.find()
    assert (union(found.same_key), found.away) == (union([manifest(1), manifest(2)]), [])
    assert slow.listings == 1, "what was begun is gone on with"


async def test_a_remote_that_is_always_slower_than_our_patience_is_told_all_the_same(
    make: MakeSearcher, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PATIENCE_S", 0.05)
    remote = Memory("slow")
    searcher = make(remote)
    config = RemoteConfig(url="file:///slow", name="slow", mode="read-write")
    outgoing = searcher.library.outgoing(config, UploadConfig(), remote.source)
    outgoing.access(False)
    await searcher.library.offer(manifest(1, 2), private=False)
    clock.pass_s(UploadConfig().quiet_s)
    remote.may_answer.clear()
    assert await outgoing.alone() == {}
    remote.may_answer.set()
    assert (await searcher.find()).away == [], "what was begun has come to its end"
    clock.pass_s(FIRST_RETRY_S)
    remote.may_answer.clear()
    assert list(await outgoing.alone()) == [manifests.path_of(manifest(1, 2))]


async def test_a_remote_in_trouble_is_remembered_and_not_asked(make: MakeSearcher) -> None:
    remote = Memory("one", manifest(1))
    searcher = make(remote)
    await searcher.find()
    remote.error = RemoteUnavailable("server-error")
    found = await searcher.find()
    assert (found.same_key, found.away) == ([manifest(1)], ["one"])
    assert searcher.metrics.value("neffd_remote_failures_total", remote="one", reason="server-error") == 1
    remote.trouble = "unreachable"
    found = await searcher.find()
    assert (found.same_key, found.away, remote.listings) == ([manifest(1)], ["one"], 2)


async def test_a_fault_of_our_own_reaches_nobody(make: MakeSearcher, caplog: pytest.LogCaptureFixture) -> None:
    remote = Memory("one", manifest(1))
    remote.error = ZeroDivisionError()
    found = await make(remote, Memory("two", manifest(2))).find()
    assert (found.same_key, found.away) == ([manifest(2)], ["one"])
    assert "ZeroDivisionError" in caplog.text


async def test_the_same_key_is_found_under_another_name(make: MakeSearcher) -> None:
    copy = {**INGREDIENTS, "model": {"id": "/data/mine", "type": "llama"}}
    searcher = make(Memory("one", manifest(1, ingredients=copy)))
    assert len((await searcher.find()).same_key) == 1
    found = await searcher.library.find(entries.NAMESPACE, RUN_KEY, None)
    assert len(found.same_key) == 1, "by its key alone"


async def test_the_nearest_differs_least(make: MakeSearcher) -> None:
    def like(number: int, **changes: object) -> Manifest:
        return manifest(number, ingredients={**INGREDIENTS, **changes}, run_key=key(number))

    other = manifest(9, ingredients={**INGREDIENTS, "model": {"id": "org/other", "type": "llama"}}, run_key=key(9))
    held = [like(1, cores=2, dtype="bfloat16"), like(2), like(3, cores=2), other]
    searcher = make(Memory("one", *held))
    asked = {**INGREDIENTS, "dtype": "float32"}
    found = await searcher.find(key(7), asked)
    assert found.nearest[0] == held[1]
    assert {one.run_key for one in found.nearest} == {key(1), key(2), key(3)}
    assert found.same_key == []
    assert found.sources[0] == manifests.path_of(held[1])
    found = await searcher.find(key(7), {"version": 1, "inferred": {"command": "ab"}})
    assert (found.same_key, found.nearest) == ([], []), "without a model nothing is near"


async def test_however_many_there_are_so_many_are_read(make: MakeSearcher) -> None:
    remote = Memory("one", *(manifest(number % 7, run_key=key(number % 150)) for number in range(1_000)))
    found = await make(remote).find(key(1_000))
    assert len(found.nearest) == len(remote.read) == reading.MAX_MANIFESTS
    assert len({one.run_key for one in found.nearest}) == 150, "one of each before a second of any"


async def test_so_many_bytes_and_modules_are_enough(make: MakeSearcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_READ_BYTES", 10 * len(manifests.encode(manifest(*range(10)))))
    monkeypatch.setattr(reading, "MAX_MODULES", 50)
    remote = Memory("one", *(manifest(*range(number, number + 10)) for number in range(0, 200, 10)))
    found = await make(remote).find()
    assert len(remote.read) <= 10
    assert len(found.same_key) == 5


async def test_junk_of_the_same_key_hides_no_neighbour(make: MakeSearcher) -> None:
    remote = Memory("one", manifest(1, run_key=key(1)))
    remote.files[manifests.path_of(manifest(2))] = b"not this"
    searcher = make(remote)
    found = await searcher.find()
    assert (found.same_key, found.nearest) == ([], [manifest(1, run_key=key(1))])
    assert searcher.metrics.value("neffd_manifests_refused_total", remote="one", reason="digest-mismatch") == 1


async def test_what_two_remotes_have_is_one(make: MakeSearcher) -> None:
    found = await make(Memory("one", manifest(1)), Memory("two", manifest(1))).find()
    assert found.same_key == [manifest(1)]


def test_a_shelf_forgets_what_nobody_asks_for() -> None:
    now = Clock()
    shelf = Shelf(clock=now)
    asked_for, forgotten, new = (Document(f"path-{number}", 1_000, "1") for number in range(3))
    for document in (asked_for, forgotten):
        shelf.put("one", document, manifest(1))
    now.pass_s(FORGOTTEN_AFTER_S / 2)
    assert shelf.get("one", asked_for) is not None
    now.pass_s(FORGOTTEN_AFTER_S / 2 + 1)
    shelf.put("one", new, manifest(1))
    assert [shelf.get("one", document) is not None for document in (asked_for, forgotten, new)] == [True, False, True]
    assert shelf.size_bytes == 2 * 1_500


def test_a_shelf_holds_so_much() -> None:
    shelf = Shelf(max_bytes=10_000)
    documents = [Document(f"path-{number}", 1_000, "1") for number in range(20)]
    for document in documents:
        shelf.put("one", document, manifest(1))
    assert shelf.size_bytes <= 10_000
    kept = [document for document in documents if shelf.get("one", document) is not None]
    assert kept == documents[-6:]
    assert shelf.get("two", documents[-1]) is None
    assert shelf.get("one", Document("path-19", 1_000, "2")) is None, "written over"
    shelf.put("one", Document("huge", 1 << 20, "1"), "too-large")
    assert shelf.get("one", Document("huge", 1 << 20, "1")) == "too-large", "what is none costs little"
