"""Hosts for integration tests: daemons that share one directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import Daemon

MakeDaemon = Callable[..., Daemon]


@pytest.fixture
def make_daemon(tmp_path: Path, shared: Path) -> Iterator[MakeDaemon]:
    """Makes daemons by host name, each with the shared directory as read-write remote; kills them at the end."""
    made: list[Daemon] = []

    def make(host: str, *, mode: str = "read-write", **options: Any) -> Daemon:
        remotes = options.pop("remotes", None)
        if remotes is None:
            remotes = [{"name": "shared", "url": f"file://{shared}", "mode": mode, "poll_s": 0.5}]
        daemon = Daemon(tmp_path / host, remotes, **options)
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        daemon.kill()
