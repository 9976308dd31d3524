"""What lies between the two hosts of the demo: a shared directory, or a repo on a local Hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from tests.hub.process import HubProcess

_REPO = "alice/neuron-cache"


class Between(Protocol):
    """A remote of the demo."""

    title: str
    name: str

    def remotes(self) -> list[dict[str, Any]]:
        """The `remotes` of either host's configuration."""

    def traffic(self) -> dict[str, int]:
        """What the remote has seen since the last call, for the table; empty where nothing is counted."""


class SharedDirectory:
    """A directory that both hosts mount."""

    title = "between them one shared directory"
    name = "shared"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()

    def remotes(self) -> list[dict[str, Any]]:
        return [{"name": self.name, "url": f"file://{self._folder}", "mode": "read-write", "poll_s": 1}]

    def traffic(self) -> dict[str, int]:
        return {}


class LocalHub:
    """A private repo on a Hub that runs here and speaks the real one's protocol."""

    title = "between them a private repo on a local Hub"
    name = "hub"

    def __init__(self, hub: HubProcess) -> None:
        self._hub = hub
        hub.seed_files(_REPO, {}, private=True)
        self._commits = len(hub.commits(_REPO))
        self._token_file = hub.root / "token"
        self._token_file.write_text(hub.token("alice"))

    def remotes(self) -> list[dict[str, Any]]:
        return [
            {
                "name": self.name,
                "url": f"hf://{_REPO}",
                "mode": "read-write",
                "endpoint": self._hub.endpoint,
                "token_file": str(self._token_file),
            }
        ]

    def traffic(self) -> dict[str, int]:
        commits = len(self._hub.commits(_REPO))
        # The CDN and the CAS are other servers with other limits; what counts against a quota is asked of the Hub.
        asked = self._hub.counters()["requests"]
        seen = {
            "commits": commits - self._commits,
            "requests": sum(count for route, count in asked.items() if not _is_content(route)),
        }
        self._commits = commits
        self._hub.reset_counters()
        return seen


def _is_content(route: str) -> bool:
    return "/v1/" in route or "/v2/" in route or "/content" in route or "/cdn" in route


@contextlib.contextmanager
def open_between(kind: str, folder: Path) -> Iterator[Between]:
    """The remote called `kind` (`hub` or `directory`), ended when the block ends."""
    if kind == "directory":
        yield SharedDirectory(folder / "shared")
        return
    with HubProcess(folder / "hub") as hub:
        yield LocalHub(hub)
