"""What many unit tests need: a cache directory, and the daemon's database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from neffd.store.database import Database
from neffd.store.root import CacheRoot


@pytest.fixture
def root(tmp_path: Path) -> CacheRoot:
    return CacheRoot(tmp_path / "cache")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "state")
    yield database
    database.close()
