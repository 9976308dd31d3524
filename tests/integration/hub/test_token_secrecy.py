"""After a run in which everything that can fail has failed, the token is nowhere but in its file and in requests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.harness import entries
from tests.harness.processes import command_line, worker_of
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess
from tests.integration.hub.conftest import MakeHost

_COMMIT = "POST /api/models/alice/cache/commit/main"


@pytest.mark.parametrize("given_by", ["file", "environment"])
def test_the_token_is_nowhere(make_host: MakeHost, hub: HubProcess, tmp_path: Path, given_by: str) -> None:
    token = hub.token("alice")
    in_environment = {"HF_TOKEN": token} if given_by == "environment" else {}
    role = None if in_environment else "write"
    # A Hub that is unkind, and repeats what it was sent.
    hub.add_fault("HEAD .*/resolve/", status=500, message=f"failed for {token}")
    hub.add_fault("GET .*/tree/", status=401, message=f"unknown: {token}")
    hub.add_fault("POST .*/paths-info/", status=403, message=f"forbidden for {token}")
    hub.add_fault("/xet-write-token/", status=429, message=f"slow down, {token}", headers={"Retry-After": "0"})
    hub.add_fault(_COMMIT, status=400, message=f"Bearer {token}")
    with make_host("a", role=role, environ=in_environment, overrides={"log_level": "debug"}) as host:
        name = entries.module(1)
        entries.write(host.cache, name, entries.files(name))
        answers = host.ask("flush", timeout_s=30)
        answers += host.ask("prefetch", names=[str(entries.module(2))], wait=True)
        answers += host.ask("status")
        worker = eventually(lambda: worker_of(host.pid), "the worker process")
        assert worker is not None
        for pid in (host.pid, worker):
            assert not any(token in argument for argument in command_line(pid))
        assert token not in environment_of(worker)
        if given_by == "file":
            assert token not in environment_of(host.pid)
        assert token not in json.dumps(answers)
    assert "refused-by-hub" in host.log
    assert [fault["match"] for fault in hub.faults() if fault["times"] != 0] == [], "everything failed once"
    assert token not in host.log
    holders = {path for path in tmp_path.rglob("*") if path.is_file() and token.encode() in path.read_bytes()}
    assert holders - set((tmp_path / "hub").rglob("*")) == ({tmp_path / "a.token"} if role else set())


def environment_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode()
    except PermissionError:  # it forbids to be looked at, which is as good
        return ""
