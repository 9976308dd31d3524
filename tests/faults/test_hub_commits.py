"""A commit cut short at every moment, by whoever dies: no entry lost, torn, or committed twice with other bytes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neff.keys import ModuleName
from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.harness.processes import is_gone, worker_of
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess

REPO = "alice/cache"
_COMMIT = "POST /api/{type}/{namespace}/{name}/commit/{revision}"
_COMMIT_URL = r"POST /api/models/alice/cache/commit/main"
# Where the Hub stops answering: before the commit, after it landed, or while the content is on its way.
_MOMENTS: dict[str, dict[str, Any]] = {
    "before the commit": {"match": _COMMIT_URL, "kind": "stall"},
    "landed, unanswered": {"match": _COMMIT_URL, "kind": "stall", "landed": True},
    "content under way": {"match": r"POST /v2/shards", "kind": "stall"},
}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    with HubProcess(tmp_path / "hub") as server:
        server.seed_files(REPO, {}, private=True)
        yield server


@pytest.fixture
def host(tmp_path: Path, hub: HubProcess) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "host", [hub_remote(hub, tmp_path)])
    yield daemon
    daemon.kill()


def hub_remote(hub: HubProcess, folder: Path) -> dict[str, Any]:
    token_file = folder / "token"
    token_file.write_text(hub.token("alice"))
    return {
        "name": "hub",
        "url": f"hf://{REPO}",
        "mode": "read-write",
        "endpoint": hub.endpoint,
        "token_file": str(token_file),
        "poll_s": 0.5,
    }


def assert_published_once(hub: HubProcess, made: dict[ModuleName, dict[str, bytes]]) -> None:
    files = hub.read_files(REPO)
    for name, content in made.items():
        there = {path.removeprefix(f"{name}/"): data for path, data in files.items() if path.startswith(f"{name}/")}
        assert entries.shared(there) == content, name
    messages = "\n".join(str(commit["message"]) for commit in hub.commits(REPO))
    for name in made:
        assert messages.count(str(name)) == 1, f"{name} was committed more than once"


@pytest.mark.parametrize("moment", _MOMENTS)
@pytest.mark.parametrize("victim", ["daemon", "worker"])
def test_killed_in_the_middle_of_a_commit(host: Daemon, hub: HubProcess, moment: str, victim: str) -> None:
    made = {entries.module(number): entries.files(entries.module(number), seed=number) for number in range(2)}
    hub.add_fault(**_MOMENTS[moment])
    host.start()
    for name, content in made.items():
        entries.write(host.cache, name, content)
    eventually(lambda: not hub.faults() or hub.faults()[0].get("times") == 0, "the fault to be met", timeout_s=30)
    worker = eventually(lambda: worker_of(host.pid) or 0, "the worker process")
    if victim == "worker":
        os.kill(worker, signal.SIGKILL)
    else:
        host.kill()
    hub.clear_faults()
    if victim == "daemon":
        eventually(lambda: is_gone(worker), "the worker to end with its daemon")
        host.start()
    assert host.ask("flush", timeout_s=40)[-1] == {"id": 1, "pending": 0, "parked": [], "done": True}
    assert_published_once(hub, made)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "reset", "landed": True},
        {"status": 500, "landed": True},
        {"status": 504, "landed": True},
        {"status": 503},
        {"status": 409},
        {"status": 412},
        {"kind": "reset"},
        {"status": 429, "headers": {"Retry-After": "1"}},
    ],
    ids=str,
)
def test_a_commit_that_fails_or_loses_its_answer(host: Daemon, hub: HubProcess, fault: dict[str, Any]) -> None:
    made = {entries.module(number): entries.files(entries.module(number), seed=number) for number in range(2)}
    hub.add_fault(match=_COMMIT_URL, **fault)
    host.start()
    for name, content in made.items():
        entries.write(host.cache, name, content)
    assert host.ask("flush", timeout_s=40)[-1] == {"id": 1, "pending": 0, "parked": [], "done": True}
    assert_published_once(hub, made)
    assert hub.counters()["requests"][_COMMIT] >= 1
