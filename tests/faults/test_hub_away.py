"""A Hub that refuses, stalls or fails all the time: trainers finish as if alone, and all arrives once it is back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.demo.trainer_run import train
from tests.faults.test_hub_commits import REPO, hub_remote
from tests.harness.daemon import Daemon
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess

_SICK: dict[str, dict[str, Any] | None] = {
    "refuses connections": None,
    "stalls": {"match": ".", "kind": "stall", "times": None},
    "answers 500": {"match": ".", "status": 500, "times": None},
    "answers nonsense": {"match": ".", "status": 200, "message": "<html>", "times": None},
}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    with HubProcess(tmp_path / "hub") as server:
        server.seed_files(REPO, {}, private=True)
        yield server


@pytest.mark.timeout(180)
@pytest.mark.parametrize("how", _SICK)
def test_a_sick_hub(tmp_path: Path, hub: HubProcess, how: str) -> None:
    remote = hub_remote(hub, tmp_path)
    fault = _SICK[how]
    if fault is None:
        hub.stop()
    else:
        hub.add_fault(**fault)
    with Daemon(tmp_path / "host", [remote]) as host:
        run = train(host, compile_s=0, on_step=lambda step: None)
        assert run.compiled == len(run.steps) == 6
        eventually(lambda: host.status()["remotes"][0]["reason"] is not None, "a reason in the status")
        assert host.stop() == 0, "SIGTERM ends it, sick Hub or not"
        host.start()
        # Until the journal is read, the remote counts as one.
        eventually(lambda: host.ask("flush", timeout_s=0.2)[-1]["pending"] == 6, "nothing was lost")
        if fault is None:
            hub.start()
        else:
            hub.clear_faults()
        eventually(lambda: len(modules_on(hub)) == 6, "everything to arrive by itself", timeout_s=90)
        eventually(host.journal_is_empty, "the journal to know it")


def modules_on(hub: HubProcess) -> set[str]:
    return {path.rpartition("/")[0] for path in hub.read_files(REPO) if path.endswith("/model.done")}


@pytest.mark.timeout(240)
def test_1000_entries_one_by_one_stay_within_the_quotas(tmp_path: Path, hub: HubProcess) -> None:
    from tests.harness import entries

    hub.set(commit_quota=128, api_quota=1000, resolver_quota=5000)
    upload = {"quiet_s": 0.05, "max_delay_s": 0.5, "max_files": 2000, "settle_s": 0.05, "existing": "always"}
    with Daemon(tmp_path / "host", [hub_remote(hub, tmp_path)], {"upload": upload}) as host:
        for number in range(1000):
            name = entries.module(number)
            content = entries.files(name, seed=number) | {"model.neff": entries.neff_bytes(number, 1_500)}
            entries.write(host.cache, name, content)
            time.sleep(0.005)  # one by one, as ranks would
        eventually(
            lambda: host.counter("neffd_published_entries", "remote=hub") == 1000, "1,000 entries", timeout_s=200
        )
    errors = hub.counters()["errors"]
    assert not [route for route, by_status in errors.items() if "429" in by_status]
    assert len(hub.commits(REPO)) <= 128
