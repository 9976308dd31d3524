"""A local Hub in a process of its own, and hosts that share entries through one of its repos."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import Daemon
from tests.hub.process import HubProcess

REPO = "alice/cache"
MakeHost = Callable[..., Daemon]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    """A Hub with the private repo `alice/cache`."""
    with HubProcess(tmp_path / "hub") as server:
        server.seed_files(REPO, {}, private=True)
        yield server


@pytest.fixture
def make_host(tmp_path: Path, hub: HubProcess) -> Iterator[MakeHost]:
    """Makes daemons by host name whose remote `hub` is that repo, with a token of the given role."""
    made: list[Daemon] = []

    def make(host: str, *, role: str | None = "write", remote: dict[str, Any] | None = None, **options: Any) -> Daemon:
        entry = {
            "name": "hub",
            "url": f"hf://{REPO}",
            "mode": "read-write",
            "endpoint": hub.endpoint,
            "poll_s": 0.5,
            **(remote or {}),
        }
        if role is not None:
            token_file = tmp_path / f"{host}.token"
            token_file.write_text(hub.token("alice", "write" if role == "write" else "read") + "\n")
            entry["token_file"] = str(token_file)
        daemon = Daemon(tmp_path / host, [entry], **options)
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        daemon.kill()
