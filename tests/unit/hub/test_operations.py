"""Seeding, restarts, the server as a child process and its control API."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from tests.hub import Fault, HubControl, HubProcess, HubServer, Settings, control
from tests.hub.faults import Kind

FILES = {"k/model.neff": b"\0binary", "k/flags.json": b"[]", "k/model.done": b""}
PROJECT = Path(__file__).resolve().parents[3]


async def test_seeded_files_are_stored_by_the_rule(hub: HubServer) -> None:
    commit = hub.seed_files("alice/m", FILES)
    assert hub.head("alice/m") == commit
    stored = hub.read_files("alice/m")
    assert len(stored.pop(".gitattributes")) == 1519
    assert stored == FILES
    repo = hub.hub.repos.get("model", "alice", "m")
    assert repo is not None
    files = repo.tree(commit).files
    assert {path for path, entry in files.items() if entry.sha256} == {"k/model.neff"}
    assert files["k/model.neff"].xet is None
    hub.seed_files("alice/m", {"k2/model.neff": b"\0other"}, xet=True)
    assert hub.read_files("alice/m")["k2/model.neff"] == b"\0other"
    assert repo.tree(hub.head("alice/m")).files["k2/model.neff"].xet is not None
    assert [commit["title"] for commit in hub.commits("alice/m")] == ["Seed", "Seed", "initial commit"]


async def test_ten_thousand_keys_can_be_seeded_and_listed(hub: HubServer) -> None:
    hub.seed_files("alice/m", {f"ns/MODULE_{number}/model.done": b"" for number in range(10_000)})
    repo = hub.hub.repos.get("model", "alice", "m")
    assert repo is not None
    assert len(repo.tree(hub.head("alice/m")).directly_in("ns")) == 10_000


async def test_restart_keeps_everything_and_the_ports(tmp_path: Path) -> None:
    hub = HubServer(tmp_path)
    await hub.start()
    token, ports = hub.token("alice", "read"), (hub.port, hub.cdn_port)
    hub.seed_files("alice/m", FILES, private=True)
    hub.seed_files("alice/d", FILES, repo_type="dataset", xet=True)
    hub.seed_bucket("alice/b", FILES)
    xet_token = hub.hub.xet_tokens.issue("write", 60)[0]
    head, files = hub.head("alice/m"), hub.read_files("alice/m")
    await hub.stop()
    await hub.start()
    assert (hub.port, hub.cdn_port) == ports
    await hub.stop()
    async with HubServer(tmp_path) as again:
        assert again.token("alice", "read") == token
        assert again.head("alice/m") == head
        assert again.read_files("alice/m") == files
        assert again.read_files("alice/d", repo_type="dataset") == files
        assert again.read_bucket("alice/b") == FILES
        assert again.hub.xet_tokens.scope(xet_token) == "write"
        repo = again.hub.repos.get("model", "alice", "m")
        assert repo is not None
        assert repo.private


async def test_taken_port_is_an_error(hub: HubServer, tmp_path: Path) -> None:
    second = HubServer(tmp_path / "second", port=hub.port)
    with pytest.raises(OSError, match="address already in use"):
        await second.start()


async def test_revoked_token_is_unknown(hub: HubServer) -> None:
    token = hub.token("alice")
    hub.revoke(token)
    assert hub.token("alice") != token


async def test_unknown_repos_and_wrong_keys_are_errors(hub: HubServer) -> None:
    with pytest.raises(KeyError, match="alice/none"):
        hub.head("alice/none")
    with pytest.raises(KeyError, match="alice/none"):
        hub.read_bucket("alice/none")
    with pytest.raises(ValueError, match="invalid path"):
        hub.seed_bucket("alice/b", {"/a": b""})


def test_child_process_is_controlled_over_http(tmp_path: Path) -> None:
    with HubProcess(tmp_path, latency_s=0.001) as hub:
        assert hub.settings()["latency_s"] == 0.001
        hub.set(commit_s=1.5, api_quota=10)
        assert (hub.settings()["commit_s"], hub.settings()["api_quota"]) == (1.5, 10)
        with pytest.raises(ValueError, match="unknown setting"):
            hub.set(nonsense=1)
        hub.set(api_quota=None)
        hub.add_fault("x", status=500)
        assert hub.faults()[0]["match"] == "x"
        with pytest.raises(ValueError, match="kind must be one of"):
            hub.add_fault("x", kind="explode")
        hub.clear_faults()
        assert hub.faults() == []
        commit = hub.seed_files("alice/m", FILES, xet=True)
        assert hub.head("alice/m", revision="main") == commit == hub.commits("alice/m")[0]["id"]
        assert hub.read_files("alice/m").items() >= FILES.items()
        with pytest.raises(ValueError, match="not found"):
            hub.head("alice/none")
        hub.seed_bucket("alice/b", FILES)
        assert hub.read_bucket("alice/b") == FILES
        token = hub.token("bob", "read")
        assert _whoami(hub, token) == 200
        hub.wait_for_requests("GET /api/whoami-v2", 1)
        with pytest.raises(ValueError, match="was not asked often enough"):
            hub.wait_for_requests("GET /api/whoami-v2", 2, timeout_s=0.05)
        assert hub.counters()["requests"] == {"GET /api/whoami-v2": 1}
        assert hub.recent_requests() == ["GET /api/whoami-v2"]
        hub.reset_counters()
        hub.revoke(token)
        assert _whoami(hub, token) == 401
        assert hub.counters()["errors"] == {"GET /api/whoami-v2": {"401": 1}}


def _whoami(hub: HubControl, token: str) -> int:
    request = urllib.request.Request(f"{hub.endpoint}/api/whoami-v2", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_killed_child_comes_back_with_its_files(tmp_path: Path) -> None:
    hub = HubProcess(tmp_path)
    hub.start()
    try:
        endpoint, pid = hub.endpoint, hub.pid
        head = hub.seed_files("alice/m", FILES)
        hub.kill()
        with pytest.raises(OSError, match="refused"):
            hub.head("alice/m")
        hub.start()
        assert hub.endpoint == endpoint
        assert hub.pid != pid
        assert hub.head("alice/m") == head
    finally:
        hub.stop()


def test_child_that_cannot_start_says_why(hub_port: int, tmp_path: Path) -> None:
    child = HubProcess(tmp_path, port=hub_port)
    with pytest.raises(RuntimeError, match="address already in use"):
        child.start()


@pytest.fixture
def hub_port(tmp_path: Path) -> Iterator[int]:
    with HubProcess(tmp_path / "other") as other:
        yield int(other.endpoint.rpartition(":")[2])


def test_readme_names_every_switch_fault_and_control_route() -> None:
    text = (PROJECT / "tests/hub/README.md").read_text()
    names = [field.name for field in [*dataclasses.fields(Settings), *dataclasses.fields(Fault)]]
    names += [*get_args(Kind), *(str(route.path).removeprefix("/_control") for route in control.routes())]
    assert [name for name in names if name not in text] == []


def test_by_hand_it_prints_endpoint_and_tokens_and_ends_on_a_signal(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "tests.hub", "--root", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(6)]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()
    assert lines[0].startswith("HF_ENDPOINT=http://127.0.0.1:")
    assert [line.partition(": ")[0] for line in lines[2:5]] == [
        "token of alice (write)",
        "token of alice (read)",
        "token of bob (write)",
    ]
    assert lines[5] == "Stop with Ctrl-C.\n"
