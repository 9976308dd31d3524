"""What hosts under faults share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.daemon import Daemon


@pytest.fixture
def host(tmp_path: Path, shared: Path) -> Iterator[Daemon]:
    """A daemon, not started yet, with that as its remote."""
    remotes = [{"name": "shared", "url": f"file://{shared}", "mode": "read-write", "poll_s": 0.5}]
    daemon = Daemon(tmp_path / "host", remotes)
    yield daemon
    daemon.kill()
