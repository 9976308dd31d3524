"""A Hub repo as a remote, against a Hub in the test's event loop; writes go through a real worker process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from neffd.remotes.base import Access, EntryFailed, EntryRefused, OutgoingEntry, PublishResult, RemoteUnavailable
from neffd.remotes.hub import unready
from neffd.remotes.hub.repo import HubRepoRemote
from neffd.remotes.hub.tokens import TokenSource
from neffd.store.root import PART_SUFFIX
from tests.harness import entries
from tests.harness.listing import all_keys
from tests.hub import HubServer
from tests.unit.clock import Clock
from tests.unit.remotes.fetching import Waiting, fetched
from tests.unit.remotes.hub.conftest import REPO, MakeServer
from tests.unit.remotes.publishing import outgoing

NAME = entries.module(1)
CONTENT = entries.files(NAME, seed=1)
STORED = PublishResult.STORED
CONTENT_ROUTE = "GET /content/{kind}/{key}"
_COMMIT = "POST /api/{type}/{namespace}/{name}/commit/{revision}"


@pytest.fixture
async def remote(hub: HubServer, tmp_path: Path) -> AsyncIterator[HubRepoRemote]:
    token = TokenSource(environ={"HF_TOKEN": hub.token("alice")})
    remote = HubRepoRemote("hub", hub.endpoint, REPO, token, tmp_path / "home", Clock(), conflict_pause_s=0.0)
    yield remote
    await remote.close()


def made(tmp_path: Path, *numbers: int) -> list[OutgoingEntry]:
    names = [entries.module(number) for number in numbers]
    return [
        outgoing(tmp_path / name.key, name, entries.files(name, seed=number + 10))
        for number, name in zip(numbers, names, strict=True)
    ]


def seed(hub: HubServer) -> None:
    hub.seed_files(REPO, {f"{NAME}/{file}": data for file, data in CONTENT.items()})


async def test_a_namespace_that_is_not_there_is_empty(remote: HubRepoRemote) -> None:
    assert await all_keys(remote, "neuronxcc-9.9.9+none") == frozenset()
    assert await remote.namespaces() == []
    assert await remote.describe(NAME) is None


async def test_a_folder_that_was_found_to_be_no_entry_is_not_listed(
    remote: HubRepoRemote, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unready, "_MOST", 2)
    halves = [entries.module(number) for number in range(2, 5)]
    seed(hub)
    hub.seed_files(REPO, {f"{name}/model.hlo_module.pb": b"hlo" for name in halves})
    everything = {NAME.key, *(name.key for name in halves)}
    await remote.version(NAME.namespace)
    assert await all_keys(remote, NAME.namespace) == everything, "nobody has asked yet"
    assert await remote.present(NAME.namespace, [NAME.key, halves[0].key]) == {NAME.key}
    assert await remote.describe(halves[1]) is None
    assert await all_keys(remote, NAME.namespace) == {NAME.key, halves[2].key}
    assert await remote.describe(halves[2]) is None
    assert await all_keys(remote, NAME.namespace) == {NAME.key, halves[0].key}, "the oldest of too many is forgotten"
    hub.seed_files(REPO, {f"{halves[2]}/compile_flags.json": b"[]"})
    await remote.version(NAME.namespace)
    assert await all_keys(remote, NAME.namespace) == everything, "of another commit nothing is known"


async def test_a_history_that_was_rewritten_is_no_empty_namespace(remote: HubRepoRemote, hub: HubServer) -> None:
    seed(hub)
    await remote.version(NAME.namespace)
    hub.add_fault("GET .*/tree/", status=404, code="RevisionNotFound")
    with pytest.raises(RemoteUnavailable, match="revision-gone"):
        await all_keys(remote, NAME.namespace)
    assert await all_keys(remote, NAME.namespace) == {NAME.key}


async def test_an_answer_that_was_overtaken_does_not_lead_back_to_an_older_commit(
    make_server: MakeServer, tmp_path: Path
) -> None:
    """What was new would be denied at it, and remembered as missing at the newer one."""
    first_asked, may_answer = asyncio.Event(), asyncio.Event()
    heads = iter(("a" * 40, "b" * 40))

    async def answer(request: web.Request) -> web.Response:
        if request.method == "POST":
            return web.json_response([])
        head = next(heads)
        if head[0] == "a":
            first_asked.set()
            await may_answer.wait()
        return web.Response(headers={"X-Repo-Commit": head})

    server = await make_server(answer)
    remote = HubRepoRemote("hub", server.url, REPO, TokenSource(anonymous=True), tmp_path / "home", Clock())
    try:
        overtaken = asyncio.ensure_future(remote.version(NAME.namespace))  # noqa: TID251
        await first_asked.wait()
        assert await remote.version(NAME.namespace) == "b" * 40
        may_answer.set()
        assert await overtaken == "b" * 40
        await remote.present(NAME.namespace, [NAME.key])
        assert server.requests[-1].path.endswith("b" * 40)
    finally:
        may_answer.set()
        await remote.close()


@pytest.mark.parametrize("size", ["1e999", "-1", "NaN", '"much"', "null"])
async def test_a_file_without_a_size_that_there_can_be(make_server: MakeServer, tmp_path: Path, size: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        item = f'[{{"type": "file", "path": "{NAME}/model.neff", "oid": "{"a" * 40}", "size": {size}}}]'
        return web.Response(text=item, headers={"X-Repo-Commit": "a" * 40})

    server = await make_server(answer)
    remote = HubRepoRemote("hub", server.url, REPO, TokenSource(anonymous=True), tmp_path / "home", Clock())
    try:
        with pytest.raises(RemoteUnavailable, match="bad-answer"):
            await remote.describe(NAME)
    finally:
        await remote.close()


async def test_a_repo_without_a_branch_is_unavailable(remote: HubRepoRemote, hub: HubServer) -> None:
    hub.add_fault("HEAD ", status=404, code="RevisionNotFound")
    with pytest.raises(RemoteUnavailable, match="revision-gone"):
        await remote.version(NAME.namespace)


@pytest.mark.parametrize("missing", ["model.done", "model.neff"])
async def test_half_an_entry_is_none(remote: HubRepoRemote, hub: HubServer, missing: str) -> None:
    hub.seed_files(REPO, {f"{NAME}/{file}": data for file, data in CONTENT.items() if file != missing})
    assert await remote.describe(NAME) is None


async def test_who_leaves_a_download_leaves_no_open_file(remote: HubRepoRemote, hub: HubServer, tmp_path: Path) -> None:
    seed(hub)
    hub.add_fault("GET /content/", kind="stall-body", after_bytes=100, times=None)
    arrived = asyncio.Event()
    (tmp_path / "in").mkdir()
    download = asyncio.ensure_future(  # noqa: TID251
        remote.fetch(NAME, tmp_path / "in", Waiting(on_moved=lambda count: arrived.set() if count == 100 else None))
    )
    await arrived.wait()
    download.cancel()
    await asyncio.wait([download])
    assert download.cancelled()
    open_files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]  # noqa: PTH115, PTH208
    assert not [path for path in open_files if str(tmp_path / "in") in path]


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


async def test_wrong_bytes_end_the_download_and_the_next_is_clean(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path
) -> None:
    seed(hub)
    hub.add_fault("GET /content/", kind="corrupt")
    with pytest.raises(EntryRefused, match="digest-mismatch"):
        await fetched(remote, NAME, tmp_path / "one")
    assert await fetched(remote, NAME, tmp_path / "two") == CONTENT


async def test_what_we_may_do_is_asked_again(remote: HubRepoRemote, hub: HubServer) -> None:
    assert await remote.access() == Access(can_write=True, public=False)
    hub.add_fault("DELETE .*/branch/", status=403)
    assert await remote.access() == Access(can_write=False, public=False, reason="no-write-access")
    hub.add_fault("GET /api/models/", status=401)
    with pytest.raises(RemoteUnavailable, match="bad-token"):
        await remote.access()
    assert (await remote.access()).can_write


async def test_a_file_the_hub_refuses_stops_no_other(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By LFS, where a refused file is an error object in an answer that is otherwise fine."""
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    going = made(tmp_path, 1, 2, 3, 4)
    poison = going[2].provenance.files["model.neff"].sha256
    hub.add_fault(f"PUT /lfs/{poison}", status=403, message="forbidden content", times=None)
    outcomes = await remote.publish(going)
    assert outcomes == [STORED, STORED, EntryFailed("refused-by-hub"), STORED]
    on_hub = {path.rpartition("/")[0] for path in hub.read_files(REPO) if "MODULE" in path}
    assert on_hub == {str(entry.name) for entry in going if entry is not going[2]}
    hub.clear_faults()
    assert await remote.publish(going) == [STORED] * 4


async def test_a_commit_that_is_too_large_goes_in_parts(remote: HubRepoRemote, hub: HubServer, tmp_path: Path) -> None:
    hub.add_fault("POST .*/commit/", status=413, times=1)
    hub.add_fault("POST .*/commit/", status=504, times=1, landed=True)
    going = made(tmp_path, 1, 2, 3, 4)
    assert await remote.publish(going) == [STORED] * 4
    assert hub.counters()["requests"][_COMMIT] == 3
    messages = "\n".join(str(commit["message"]) for commit in hub.commits(REPO))
    assert [messages.count(str(entry.name)) for entry in going] == [1] * 4


async def test_a_long_wait_is_not_slept_away_in_the_worker(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path
) -> None:
    hub.add_fault("/preupload/", status=429, headers={"RateLimit": '"api";r=0;t=299'}, times=None)
    with pytest.raises(RemoteUnavailable) as raised:
        await remote.publish(made(tmp_path, 1))
    assert (raised.value.reason, raised.value.retry_after_s) == ("rate-limited", 300)


async def test_what_changed_since_it_was_taken_does_not_go(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path
) -> None:
    going = made(tmp_path, 1, 2)
    (going[0].directory / f"model.neff{PART_SUFFIX}").write_bytes(b"other")
    assert await remote.publish(going) == [EntryFailed("changed-locally"), STORED]


async def test_a_copy_that_was_written_over_does_not_keep_the_next_one_back(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path
) -> None:
    """Its maker was killed, or somebody removed its mark: made anew in place, it is taken once more."""
    (before,), (after,) = made(tmp_path / "before", 1), made(tmp_path / "after", 1)
    (before.directory / f"model.neff{PART_SUFFIX}").write_bytes(b"other")
    assert await remote.publish([before, after]) == [STORED, STORED]
    assert [str(after.name) in str(commit["message"]) for commit in hub.commits(REPO)].count(True) == 1


async def test_a_fault_in_an_answer_after_the_commit_commits_nothing_twice(
    remote: HubRepoRemote, hub: HubServer, tmp_path: Path
) -> None:
    going = made(tmp_path, 1)
    before = len(hub.commits(REPO))
    hub.add_fault("POST .*/commit/", kind="corrupt")
    with pytest.raises(RemoteUnavailable):
        await remote.publish(going)
    assert await remote.publish(going) == [STORED]
    assert len(hub.commits(REPO)) == before + 1
