"""A repo that a trainer's environment names, where the daemon is allowed to use it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import entries
from tests.harness.daemon import Daemon, RawClient
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess
from tests.integration.hub.conftest import REPO

NAME = entries.module(1)


@pytest.fixture
def host(hub: HubProcess, tmp_path: Path) -> Iterator[Daemon]:
    """With no remote of its own, and a login that may only read."""
    environ = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub.token("alice", "read")}
    with Daemon(tmp_path / "a", [], overrides={"allow_client_remotes": True}, environ=environ) as host:
        yield host


def _trainer(host: Daemon) -> contextlib.closing[RawClient]:
    facts = host.cache.stat()
    hello = {"root": str(host.cache), "device": facts.st_dev, "inode": facts.st_ino, "repo": REPO, "pid": os.getpid()}
    return contextlib.closing(RawClient(host.socket, hello))


def test_what_waited_for_it_over_a_restart_waits_for_nobody_once_it_is_there(host: Daemon, hub: HubProcess) -> None:
    with _trainer(host):
        entries.write(host.cache, NAME, entries.files(NAME))
        eventually(lambda: host.status()["remotes"][0]["journal"]["waiting"] == 1, "it waits")
    assert host.stop() == 0
    host.environ["HF_TOKEN"] = hub.token("alice", "write")
    host.start()
    assert [waiting["waiting"] for waiting in host.status()["orphaned"]] == [1]
    with _trainer(host):
        eventually(lambda: f"{NAME}/model.done" in hub.read_files(REPO), "it is sent")
        eventually(lambda: host.ask("flush", timeout_s=5)[-1]["pending"] == 0, "nothing waits")
        assert host.ask("flush", timeout_s=5)[-1]["parked"] == []
        assert host.status()["orphaned"] == []
