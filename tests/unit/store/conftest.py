"""A cache directory with its placer, and staged entries to place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from neffd import points
from neffd.store import fsops
from neffd.store.database import Database
from neffd.store.index import Index
from neffd.store.place import Placer
from neffd.store.root import PART_SUFFIX, CacheRoot


def stage(root: CacheRoot, content: Mapping[str, bytes]) -> Path:
    """A staged entry as a download leaves it."""
    folder = root.new_folder("fetch")
    for file, data in content.items():
        (folder / (file + PART_SUFFIX)).write_bytes(data)
    return folder


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    database = Database(tmp_path / "state")
    yield Index(database)
    database.close()


@pytest.fixture(params=["beside", "inside"])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> CacheRoot:
    """The staging folder beside the directory, or in it where the place beside is taken."""
    (tmp_path / "cache").mkdir()
    if request.param == "inside":
        (tmp_path / "cache.neffd").touch()
    root = CacheRoot(tmp_path / "cache")
    assert root.staging.is_relative_to(root.path) == (request.param == "inside")
    return root


@pytest.fixture(params=["kernel", "portable"])
def placer(root: CacheRoot, index: Index, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Placer:
    """With RENAME_NOREPLACE and, as on NFS, without."""
    if request.param == "portable":
        monkeypatch.setattr(fsops, "_libc", SimpleNamespace())
    return Placer(root, index)


@pytest.fixture(autouse=True)
def no_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test hangs in is gone after it."""
    monkeypatch.setattr(points, "hook", None)
