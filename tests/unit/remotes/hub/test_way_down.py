"""How entries come down from a repo: which requests, in which order, how often; nothing torn, nothing twice."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

from neff.keys import ModuleName
from neffd.remotes.base import EntryRefused, RemoteEntry, RemoteUnavailable
from neffd.remotes.hub.repo import HubRepoRemote
from neffd.remotes.hub.tokens import TokenSource
from neffd.remotes.provenance import FILE_NAME, FileDigest, Provenance
from neffd.store.root import PART_SUFFIX
from neffd.tasks import Tasks
from tests.harness import entries
from tests.hub import HubServer
from tests.unit.clock import Clock
from tests.unit.remotes.fetching import Waiting, fetched
from tests.unit.remotes.hub.conftest import REPO
from tests.unit.waiting import until

RESOLVE = "GET /{namespace}/{name}/resolve/{revision}/{path}"
PATHS_INFO = "POST /api/{type}/{namespace}/{name}/paths-info/{revision}"
CONTENT = "GET /content/{store}/{key}"
NAME = entries.module(1)
FILES = entries.files(NAME, seed=1)


@pytest.fixture
async def remote(hub: HubServer, tmp_path: Path) -> AsyncIterator[HubRepoRemote]:
    token = TokenSource(environ={"HF_TOKEN": hub.token("alice")})
    remote = HubRepoRemote("hub", hub.endpoint, REPO, token, tmp_path / "home", Clock())
    yield remote
    await remote.close()


async def seed(hub: HubServer, remote: HubRepoRemote, content: dict[ModuleName, dict[str, bytes]]) -> None:
    """Put entries on the Hub, and let the remote know that its head moved."""
    hub.seed_files(REPO, {f"{name}/{file}": data for name, files in content.items() for file, data in files.items()})
    await remote.version(entries.NAMESPACE)
    hub.reset_counters()


def asked(hub: HubServer) -> Counter[str]:
    """How often each file was asked for, by its name."""
    gets = [line.split()[1] for line in hub.hub.counters.recent if line.startswith("GET /alice/cache/resolve/")]
    return Counter(path.rpartition("/")[2] for path in gets)


async def test_one_request_a_file_and_none_for_an_empty_one(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path
) -> None:
    content = entries.files(NAME, seed=1, wrapped=True)
    await seed(hub, remote, {NAME: content})
    assert await fetched(remote, NAME, tmp_path / "in") == content
    assert asked(hub) == Counter(file for file, data in content.items() if data)
    requests = hub.counters()["requests"]
    assert requests[PATHS_INFO] == 1
    assert not [route for route in requests if route.startswith("HEAD")]


async def test_alone_it_does_not_wait_to_hear_what_it_is(remote: HubRepoRemote, hub: HubServer, tmp_path: Path) -> None:
    """Content is under way while the question what it is has no answer: so it costs the latencies of one of both."""
    await seed(hub, remote, {NAME: FILES})
    hub.add_fault("/paths-info/", kind="stall", times=None)
    tasks, turn = Tasks(), asyncio.Event()
    fetching = tasks.start(
        fetched(remote, NAME, tmp_path / "in", Waiting(at_turn=lambda _: turn.set())), name="fetch", watched=True
    )
    await hub.wait_for_requests(CONTENT, 2)
    assert asked(hub) == {"model.neff": 1, "model.hlo_module.pb": 1}
    assert not turn.is_set()
    assert list((tmp_path / "in").iterdir()) == [], "nothing is written of what nobody knows"
    hub.clear_faults()
    assert await fetching == FILES
    assert asked(hub) == {"model.neff": 1, "model.hlo_module.pb": 1, "compile_flags.json": 1}


async def test_a_large_file_is_not_gathered_in_memory_before_its_turn(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path
) -> None:
    content = {**FILES, "model.neff": entries.neff_bytes(1, 24_000_000)}
    await seed(hub, remote, {NAME: content})
    tasks, turn, moved = Tasks(), asyncio.Event(), list[int]()
    watcher = Waiting(at_turn=lambda _: turn.wait(), on_moved=moved.append)
    fetching = tasks.start(fetched(remote, NAME, tmp_path / "in", watcher), name="fetch", watched=True)
    await until(lambda: sum(moved) >= 1 << 20, "a piece of it")
    await hub.wait_for_requests(PATHS_INFO)
    assert sum(moved) < 4 << 20
    assert list((tmp_path / "in").iterdir()) == []
    turn.set()
    assert await fetching == content


@pytest.mark.parametrize("missing", ["model.done", "model.neff"])
async def test_what_is_not_ready_leaves_nothing(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path, missing: str
) -> None:
    await seed(hub, remote, {NAME: {file: data for file, data in FILES.items() if file != missing}})
    turns: list[RemoteEntry] = []
    assert await fetched(remote, NAME, tmp_path / "in", Waiting(at_turn=turns.append)) is None
    assert list((tmp_path / "in").iterdir()) == []
    assert turns == []
    await seed(hub, remote, {NAME: FILES})
    assert await fetched(remote, NAME, tmp_path / "again") == FILES


async def test_an_entry_of_an_old_compiler(remote: HubRepoRemote, hub: HubServer, tmp_path: Path) -> None:
    name = entries.module(1, entries.OLD_NAMESPACE)
    content = {"model.hlo.pb": b"hlo", "compile_flags.txt": b"", "model.neff": entries.neff_bytes(1)}
    await seed(hub, remote, {name: content})
    assert await fetched(remote, name, tmp_path / "in") == content
    assert asked(hub) == {"model.neff": 1, "model.hlo.pb": 1}


async def test_an_entry_that_is_written_again_meanwhile_comes_as_it_was(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path
) -> None:
    await seed(hub, remote, {NAME: FILES})
    other = {file: data + b"x" if data else data for file, data in FILES.items()}
    watcher = Waiting(at_turn=lambda _: hub.seed_files(REPO, {f"{NAME}/{file}": data for file, data in other.items()}))
    assert await fetched(remote, NAME, tmp_path / "in", watcher) == FILES
    await remote.version(NAME.namespace)
    assert await fetched(remote, NAME, tmp_path / "again") == other


async def test_the_same_content_of_many_entries_is_asked_for_once(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path
) -> None:
    content = {entries.module(number): entries.files(entries.module(number), seed=number) for number in range(30)}
    await seed(hub, remote, content)
    arrived = await asyncio.gather(*(fetched(remote, name, tmp_path / name.key) for name in content))
    assert arrived == list(content.values())
    assert asked(hub) == {"model.neff": 30, "model.hlo_module.pb": 30, "compile_flags.json": 1}
    assert hub.counters()["requests"][PATHS_INFO] == 1


async def test_a_second_time_the_flags_come_from_memory(remote: HubRepoRemote, hub: HubServer, tmp_path: Path) -> None:
    content = {entries.module(number): entries.files(entries.module(number), seed=number) for number in range(3)}
    await seed(hub, remote, content)
    for name, files in content.items():
        assert await fetched(remote, name, tmp_path / name.key) == files
    assert asked(hub)["compile_flags.json"] == 1


async def test_for_two_cache_directories_at_once_everything_is_asked_for_once(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path
) -> None:
    content = {**FILES, "model.neff": entries.neff_bytes(1, 3_000_000)}
    await seed(hub, remote, {NAME: content})
    watchers = [Waiting(), Waiting()]
    arrived = await asyncio.gather(
        *(fetched(remote, NAME, tmp_path / str(number), watcher) for number, watcher in enumerate(watchers))
    )
    assert arrived == [content, content]
    assert asked(hub) == Counter(file for file, data in content.items() if data)
    assert watchers[1].moved_bytes > 3_000_000, "it sees the other's progress as its own"


@pytest.mark.parametrize("spoilt", [(), ("model.neff",), ("model.hlo_module.pb", "model.neff")])
async def test_what_lies_in_another_cache_directory_is_copied_if_it_is_the_same(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path, spoilt: tuple[str, ...]
) -> None:
    await seed(hub, remote, {NAME: FILES})
    beside = entries.write(tmp_path / "other", NAME, FILES)
    for file in spoilt:
        data = (beside / file).read_bytes()
        (beside / file).write_bytes(data + b"longer" if len(spoilt) == 1 else bytes(len(data)))
    assert await fetched(remote, NAME, tmp_path / "in", Waiting(beside=beside)) == FILES
    assert asked(hub) == dict.fromkeys(spoilt, 1)


async def test_what_comes_to_lie_there_after_it_was_asked_for_is_left_alone(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path
) -> None:
    """Two ways at once would write to one file."""
    content = {**FILES, "model.neff": entries.neff_bytes(1, 24_000_000)}
    await seed(hub, remote, {NAME: content})
    beside = entries.write(tmp_path / "other", NAME, content)
    watcher = Waiting(at_turn=lambda _: setattr(watcher, "beside", beside))
    assert await fetched(remote, NAME, tmp_path / "in", watcher) == content
    assert asked(hub) == {"model.neff": 1, "model.hlo_module.pb": 1}


async def test_a_link_in_another_cache_directory_is_not_followed(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path
) -> None:
    await seed(hub, remote, {NAME: FILES})
    beside = entries.write(tmp_path / "other", NAME, FILES)
    (beside / "model.neff").rename(tmp_path / "moved")
    (beside / "model.neff").symlink_to(tmp_path / "moved")
    assert await fetched(remote, NAME, tmp_path / "in", Waiting(beside=beside)) == FILES
    assert asked(hub) == {"model.neff": 1}


async def test_who_waits_for_anothers_content_takes_over_when_that_fails(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path
) -> None:
    await seed(hub, remote, {NAME: FILES})
    hub.add_fault("GET /content/", kind="stall-body", after_bytes=5, times=None)
    tasks = Tasks()
    first, second = (
        tasks.start(fetched(remote, NAME, tmp_path / str(number)), name="fetch", watched=True) for number in range(2)
    )
    await hub.wait_for_requests(CONTENT, 2)
    hub.clear_faults()
    first.cancel()
    assert await second == FILES
    await asyncio.wait({first})
    assert first.cancelled()


async def test_wrong_bytes_are_handed_to_nobody(remote: HubRepoRemote, hub: HubServer, tmp_path: Path) -> None:
    content = {entries.module(number): entries.files(entries.module(number), seed=number) for number in range(3)}
    await seed(hub, remote, content)
    hub.add_fault("GET /alice/cache/resolve/.*compile_flags.json", kind="corrupt")
    arrived = await asyncio.gather(
        *(fetched(remote, name, tmp_path / name.key) for name in content), return_exceptions=True
    )
    refused = [one for one in arrived if isinstance(one, EntryRefused)]
    assert [error.reason for error in refused] == ["digest-mismatch"]
    assert [one for one in arrived if not isinstance(one, EntryRefused)] == list(content.values())[1:]


async def test_what_a_trainer_waits_for_is_asked_for_first(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path
) -> None:
    """Nothing of what is prefetched moves on; the trainer's entry comes all the same."""
    content = {entries.module(number): entries.files(entries.module(number), seed=number) for number in range(100)}
    await seed(hub, remote, content)
    *prefetched, urgent = content
    # What all of them share, and whoever came first brings, is not what this is about.
    others = f"GET /alice/cache/resolve/(?!.*({urgent.key.split('+')[0]}|compile_flags))"
    hub.add_fault(others, kind="stall", times=None)
    tasks = Tasks()
    going = [
        tasks.start(fetched(remote, name, tmp_path / name.key, Waiting(is_urgent=False)), name="prefetch", watched=True)
        for name in prefetched
    ]
    await hub.wait_for_requests(RESOLVE, 72)
    assert await fetched(remote, urgent, tmp_path / urgent.key) == content[urgent]
    own = [line for line in hub.hub.counters.recent if "/resolve/" in line and urgent.key.split("+")[0] in line]
    assert "model.neff" in own[0]
    await tasks.stop(5.0)
    assert all(task.done() for task in going)


async def test_what_was_looked_for_is_not_asked_about_again(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path
) -> None:
    await seed(hub, remote, {NAME: FILES})
    unknown = entries.module(99)
    assert await remote.present(NAME.namespace, [NAME.key, unknown.key]) == {NAME.key}
    assert await fetched(remote, NAME, tmp_path / "first") == FILES
    assert hub.counters()["requests"][PATHS_INFO] == 1
    assert await fetched(remote, NAME, tmp_path / "second") == FILES
    assert hub.counters()["requests"][PATHS_INFO] == 2, "who looks again wants to hear it anew"


async def test_a_head_that_is_gone_is_no_missing_entry(remote: HubRepoRemote, hub: HubServer, tmp_path: Path) -> None:
    await seed(hub, remote, {NAME: FILES})
    hub.add_fault("GET /alice/cache/resolve/", status=404, code="RevisionNotFound", times=None)
    with pytest.raises(RemoteUnavailable, match="revision-gone"):
        await fetched(remote, NAME, tmp_path / "in")


def stating(name: ModuleName, seed: int = 1, *, compile_s: float = 41.5, of: int | None = None) -> dict[str, bytes]:
    """An entry with a `neffd.json`; `of`: it speaks of the files that this other seed makes."""
    files = entries.files(name, seed=seed)
    digests = {
        file: FileDigest(len(data), hashlib.sha256(data).hexdigest())
        for file, data in entries.files(name, seed=seed if of is None else of).items()
    }
    return {**files, FILE_NAME: Provenance(digests, compile_s).encode()}


async def fetched_s(remote: HubRepoRemote, name: ModuleName, folder: Path, wait_for: Awaitable[object]) -> float | None:
    """What is known of a fetched entry's compile, when something else came before it was its turn."""
    folder.mkdir()
    outcome = await remote.fetch(name, folder, Waiting(at_turn=lambda _: wait_for))
    assert outcome is not None
    assert not (folder / (FILE_NAME + PART_SUFFIX)).exists(), "it belongs to the remote"
    return outcome.compile_s


async def statement_asked(hub: HubServer) -> None:
    await until(lambda: asked(hub)[FILE_NAME], "it was asked for")


async def statement_came(hub: HubServer, count: int = 1) -> None:
    """So many statements were asked for, and what was answered is read."""
    await until(lambda: asked(hub)[FILE_NAME] >= count, "it was asked for")
    await until(lambda: not any(task.get_name().startswith("statement-") for task in asyncio.all_tasks()), "its end")


async def test_what_an_entry_says_of_its_compile_comes_along(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path
) -> None:
    one, two, none = (entries.module(number) for number in range(3))
    content = {one: stating(one), two: stating(two, compile_s=7.0), none: entries.files(none)}
    await seed(hub, remote, content)
    assert await fetched_s(remote, one, tmp_path / "1", statement_came(hub)) == 41.5
    assert await fetched_s(remote, two, tmp_path / "2", statement_came(hub, 2)) == 7.0
    assert await fetched_s(remote, none, tmp_path / "3", asyncio.sleep(0)) is None
    before = asked(hub)[FILE_NAME]
    assert await fetched_s(remote, none, tmp_path / "4", asyncio.sleep(0)) is None
    assert asked(hub)[FILE_NAME] == before, "the last one had none, so this one is looked at first"


async def test_nobody_waits_for_what_an_entry_says_of_itself(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path
) -> None:
    await seed(hub, remote, {NAME: stating(NAME)})
    hub.add_fault(f"GET /alice/cache/resolve/.*{FILE_NAME}", kind="stall", times=None)
    assert await fetched_s(remote, NAME, tmp_path / "1", statement_asked(hub)) is None
    hub.clear_faults()
    hub.add_fault(f"GET /alice/cache/resolve/.*{FILE_NAME}", status=500, times=None)
    assert await fetched_s(remote, NAME, tmp_path / "2", statement_came(hub, 2)) is None


async def test_what_was_said_of_another_neff_is_not_believed(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path
) -> None:
    await seed(hub, remote, {NAME: stating(NAME, of=2)})
    assert await fetched_s(remote, NAME, tmp_path / "1", statement_came(hub)) is None
