"""A directory remote and the directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from neffd.remotes.directory import DirectoryRemote


@pytest.fixture
async def remote(shared: Path) -> AsyncIterator[DirectoryRemote]:
    remote = DirectoryRemote("shared", shared)
    yield remote
    await remote.close()
