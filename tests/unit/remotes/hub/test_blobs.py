"""Each content once: who brings it, who gets it handed over, what is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

from neffd.remotes.base import RemoteFile
from neffd.remotes.hub.blobs import Blobs, OpenFile
from neffd.tasks import Tasks
from tests.unit.remotes.fetching import Waiting


def file(digest: str, size_bytes: int = 5) -> RemoteFile:
    return RemoteFile("compile_flags.json", size_bytes, git_sha1=digest)


async def test_one_brings_it_for_all() -> None:
    blobs, tasks = Blobs(), Tasks()
    watchers = [Waiting(is_urgent=False), Waiting(is_urgent=True)]
    lead, is_ours = blobs.join(file("a"), watchers[0])
    assert is_ours
    seen_urgent = [lead.is_urgent]
    same, is_ours = blobs.join(file("a"), watchers[1])
    assert same is lead
    assert not is_ours
    follower = tasks.start(lead.follow(watchers[1]), name="follow", watched=True)
    await asyncio.sleep(0)
    seen_urgent.append(lead.is_urgent)
    assert seen_urgent == [False, True], "what is prefetched is what a trainer waits for by now"
    assert lead.is_awaited
    lead.moved(5)
    assert [watcher.moved_bytes for watcher in watchers] == [5, 5]
    blobs.settle(lead, b"flags")
    assert await follower == b"flags"
    assert blobs.kept(file("a")) == b"flags"
    assert blobs.kept(file("b")) is None


async def test_who_fails_leaves_it_to_the_next() -> None:
    blobs, tasks = Blobs(), Tasks()
    lead, _ = blobs.join(file("a"), Waiting())
    follower = tasks.start(lead.follow(Waiting()), name="follow", watched=True)
    await asyncio.sleep(0)
    blobs.settle(lead, None)
    assert await follower is None
    _, is_ours = blobs.join(file("a"), Waiting())
    assert is_ours


async def test_without_a_digest_nothing_is_shared() -> None:
    blobs = Blobs()
    nameless = RemoteFile("model.neff", 5)
    assert blobs.join(nameless, Waiting())[1]
    lead, is_ours = blobs.join(nameless, Waiting())
    assert is_ours
    blobs.settle(lead, b"bytes")
    assert blobs.kept(nameless) is None


async def test_what_is_kept_is_bounded() -> None:
    blobs = Blobs(most_bytes=1_000)
    for number in range(20):
        lead, _ = blobs.join(file(str(number)), Waiting())
        blobs.settle(lead, bytes(30))
        blobs.kept(file("0"))
    kept = [number for number in range(20) if blobs.kept(file(str(number)))]
    assert kept == [0, 18, 19], "used lately, or new"


def test_a_file_that_lost_its_name_can_be_read_by_many(tmp_path: Path) -> None:
    path = tmp_path / "model.neff.part"
    path.write_bytes(b"content")
    opened = OpenFile(path)
    path.unlink()
    assert [b"".join(opened.pieces()) for _ in range(2)] == [b"content"] * 2
