"""A Hub inside the test's event loop, and an HTTP session for it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.hub import HubServer

REPO = "alice/m"
TEXT = b"0123456789"
BINARY = bytes(range(256))
SHA256 = hashlib.sha256(BINARY).hexdigest()


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[HubServer]:
    async with HubServer(tmp_path / "hub") as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


@pytest.fixture
async def alice(hub: HubServer) -> AsyncIterator[aiohttp.ClientSession]:
    """A session that follows no redirects, with alice's write token, on a repo with a text and an LFS file."""
    hub.seed_files(REPO, {"file.txt": TEXT, "file.bin": BINARY, "empty": b""})
    hub.seed_files("alice/x", {"file.bin": BINARY}, xet=True)
    headers = {"Authorization": f"Bearer {hub.token('alice')}"}
    async with aiohttp.ClientSession(hub.endpoint, headers=headers) as session:
        yield session
