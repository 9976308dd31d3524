"""A bucket as a remote, in the test's process: real huggingface_hub in its own, a local Hub."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from neffd.remotes.base import EntryFailed, OutgoingEntry, PublishResult
from neffd.remotes.hub.bucket import HubBucketRemote
from neffd.remotes.hub.bucket_listings import Listing
from neffd.remotes.hub.tokens import TokenSource
from neffd.store.root import PART_SUFFIX
from tests.harness import entries
from tests.hub import HubServer
from tests.unit.remotes.fetching import Waiting
from tests.unit.remotes.publishing import outgoing

BUCKET = "alice/shared"
NAME = entries.module(1)


@pytest.fixture
async def remote(hub: HubServer, tmp_path: Path) -> AsyncIterator[HubBucketRemote]:
    hub.seed_bucket(BUCKET, {}, private=True)
    tokens = TokenSource(environ={"HF_TOKEN": hub.token("alice")})
    made = HubBucketRemote("team", hub.endpoint, BUCKET, tokens, tmp_path / "home")
    yield made
    await made.close()


def copy(folder: Path, *, is_sound: bool) -> OutgoingEntry:
    """One copy of the entry, as it was taken, or written over since."""
    taken = outgoing(folder, NAME, entries.files(NAME))
    if not is_sound:
        (taken.directory / f"model.neff{PART_SUFFIX}").write_bytes(b"other")
    return taken


async def test_what_changed_since_it_was_taken_does_not_go(
    remote: HubBucketRemote, hub: HubServer, tmp_path: Path
) -> None:
    assert await remote.publish([copy(tmp_path / "one", is_sound=False)]) == [EntryFailed("changed-locally")]
    assert hub.read_bucket(BUCKET) == {}


async def test_a_copy_that_was_written_over_does_not_keep_the_next_one_back(
    remote: HubBucketRemote, hub: HubServer, tmp_path: Path
) -> None:
    before, after = copy(tmp_path / "before", is_sound=False), copy(tmp_path / "after", is_sound=True)
    assert await remote.publish([before, after]) == [PublishResult.STORED, PublishResult.STORED]
    assert hub.read_bucket(BUCKET)[f"{NAME}/model.neff"] == entries.files(NAME)["model.neff"]


async def test_the_bytes_of_each_entry_are_told_as_they_come(
    remote: HubBucketRemote, hub: HubServer, tmp_path: Path
) -> None:
    content = {"model.neff": os.urandom(30_000_000), "model.done": b"", "model.hlo_module.pb": os.urandom(1_000)}
    hub.seed_bucket(BUCKET, {f"{NAME}/{file}": data for file, data in content.items()}, private=True)
    counts: list[int] = []
    watcher = Waiting(on_moved=counts.append)
    (tmp_path / "down").mkdir()
    await remote.fetch(NAME, tmp_path / "down", watcher)
    assert sum(counts) == sum(map(len, content.values()))
    assert 1 not in counts, "signs of life are no bytes"
    assert watcher.signs > 0


async def test_very_many_keys_come_in_pages(remote: HubBucketRemote, monkeypatch: pytest.MonkeyPatch) -> None:
    held = frozenset(f"MODULE_{number}+abcdef01" for number in range(10_000))

    async def fresh(namespace: str) -> Listing:
        return Listing("digest", held, 0.0)

    monkeypatch.setattr(remote._listings, "fresh", fresh)
    pages = [page async for page in remote.keys(NAME.namespace)]
    assert max(map(len, pages)) <= 4_000
    assert sorted(itertools.chain(*pages)) == sorted(held)
