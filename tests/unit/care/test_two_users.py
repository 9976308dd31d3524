"""The record of another user's failed compile: what the daemon may not do it says, with the command that can."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from neffd.care import set_aside
from neffd.layouts import xla
from neffd.store.root import CacheRoot
from tests.harness import entries
from tests.unit.store.as_user import User, needs_root

DAEMON = User(61_002, 61_002)
NAME = entries.module(1)


@pytest.fixture
def cache() -> Iterator[Path]:
    """A cache directory in a folder that the daemon's user can write; the entry in it is root's."""
    place = Path(tempfile.mkdtemp(prefix="neffd users "))
    place.chmod(0o777)
    folder = entries.write(place / "cache", NAME, {"model.hlo_module.pb": b"x", xla.FAILURE_LOG: b"Killed"})
    for path in (place / "cache", folder.parent, folder):
        path.chmod(0o755)
    yield place / "cache"
    shutil.rmtree(place)


def _try(cache: Path) -> list[str]:
    """Read and move the record: what came of it, and the command that would help."""
    root = CacheRoot(cache)
    try:
        record = set_aside.find(root, NAME)
        assert record is not None
        set_aside.read(record)
        moved = set_aside.move(root, NAME, record)
    except set_aside.CannotSetAside as error:
        return [error.reason, error.hint]
    return [moved.read_text(), ""]


@needs_root
@pytest.mark.parametrize(
    ("folder_mode", "log_mode", "came"),
    [
        (0o755, 0o644, "cannot-remove"),
        (0o1777, 0o644, "cannot-remove"),  # the sticky bit: only its owner may
        (0o777, 0o600, "cannot-read"),
        (0o777, 0o644, "Killed"),
    ],
)
def test_what_the_rights_allow(cache: Path, folder_mode: int, log_mode: int, came: str) -> None:
    folder = cache / NAME.namespace / NAME.key
    log = folder / xla.FAILURE_LOG
    log.chmod(log_mode)
    folder.chmod(folder_mode)
    result, hint = DAEMON.run(lambda: _try(cache))
    assert result == came
    assert log.exists() == bool(hint)
    commands = {"cannot-remove": f"rm '{log}'", "cannot-read": f"chmod a+r '{log}'"}
    assert hint == commands.get(came, "")


@needs_root
def test_a_folder_that_cannot_be_looked_into_holds_no_failure(cache: Path) -> None:
    (cache / NAME.namespace / NAME.key).chmod(0o700)
    assert DAEMON.run(lambda: set_aside.find(CacheRoot(cache), NAME)) is None
