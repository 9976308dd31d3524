"""Listings of a bucket: each taken once for all, and a long one is no silence."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest

from neffd.remotes.base import STILL_LISTING, RemoteUnavailable
from neffd.remotes.hub import bucket_listings
from neffd.remotes.hub.bucket_listings import Listings
from neffd.tasks import Tasks


async def test_a_long_listing_says_so_and_serves_those_who_come_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_listings, "_WAIT_S", 0.05)
    pages, taken, tasks = asyncio.Event(), list[str](), Tasks()

    async def take(namespace: str, into: Path) -> dict[str, Any]:
        taken.append(namespace)
        await pages.wait()
        into.write_text("MODULE_1+a\nMODULE_2+b\n")
        return {"digest": "d", "files": 10, "took_s": 60.0}

    listings = Listings(take, tmp_path, tasks)
    for _ in range(2):
        with pytest.raises(RemoteUnavailable) as waiting:
            await listings.fresh("ns")
        assert waiting.value.reason == STILL_LISTING
    pages.set()
    monkeypatch.setattr(bucket_listings, "_WAIT_S", 10.0)
    assert (await listings.fresh("ns")).keys == {"MODULE_1+a", "MODULE_2+b"}
    assert taken == ["ns"]
    await tasks.stop(1)


async def test_a_file_system_that_became_read_only_is_trouble_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers EROFS even where nothing is there to be removed."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    async def take(namespace: str, into: Path) -> dict[str, Any]:
        return {"digest": "d", "files": 10, "took_s": 60.0}  # and nothing could be written

    monkeypatch.setattr(Path, "unlink", refuse)
    tasks = Tasks()
    with pytest.raises(RemoteUnavailable) as trouble:
        await Listings(take, tmp_path, tasks).fresh("ns")
    assert trouble.value.reason == "disk"
    await tasks.stop(1)
