"""A bucket as a remote, in the test's process: real huggingface_hub in its own, a local Hub."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from neffd.remotes.base import EntryFailed, OutgoingEntry, PublishResult
from neffd.remotes.hub.bucket import HubBucketRemote
from neffd.remotes.hub.tokens import TokenSource
from neffd.store.root import PART_SUFFIX
from tests.harness import entries
from tests.hub import HubServer
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
