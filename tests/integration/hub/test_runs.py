"""Runs across hosts by way of a Hub repo: known before the first question, or guessed by what came together."""

from __future__ import annotations

from pathlib import Path

from neff.keys import ModuleName
from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess
from tests.integration.hub.conftest import REPO, MakeHost
from tests.integration.test_runs import NAMES, a_run, compile_all, plan, rank_of

LATER = [entries.module(number) for number in range(100, 104)]


def test_hosts_that_end_together_with_different_halves_are_one_run_for_the_third(
    hub: HubProcess, make_host: MakeHost
) -> None:
    hosts = [make_host("a"), make_host("b")]
    for host in hosts:
        host.start()
    with rank_of(hosts[0], a_run("job")) as first, rank_of(hosts[1], a_run("job")) as second:
        compile_all(hosts[0], first, NAMES[:3])
        compile_all(hosts[1], second, NAMES[3:])
        for client in (first, second):
            client.send({"id": 7, "op": "run-ended"})
        assert {client.receive()["run"]["modules"] for client in (first, second)} == {3}
    third = make_host("c")
    third.start()
    eventually(lambda: plan(third, a_run("next"))["modules"] == len(NAMES), "both halves are told")
    with rank_of(third, a_run("next")):
        eventually(lambda: all(is_ready(third, name) for name in NAMES), "the union is there, asked by nobody")


def test_without_any_manifest_what_came_with_the_first_is_brought(hub: HubProcess, make_host: MakeHost) -> None:
    for names in (NAMES, LATER):
        files = {f"{name}/{file}": data for name in names for file, data in entries.files(name).items()}
        hub.seed_files(REPO, files, private=True)
    host = make_host("a", remote={"mode": "read"})
    host.start()
    with rank_of(host, a_run("one")) as client:
        assert client.ask("plan", run=a_run("one"))[-1]["plan"]["state"] == "unknown"
        client.ask("resolve", namespace=entries.NAMESPACE, keys=[NAMES[0].key])
        eventually(lambda: all(is_ready(host, name) for name in NAMES), "the others of its commit are there")
        client.ask("used", modules=[[*NAMES[1], 0.0]])
        client.ask("run-ended")
    assert not any(is_ready(host, name) for name in LATER)
    size_bytes = sum(map(len, entries.files(NAMES[1]).values()))
    assert host.counter("neffd_prefetch_used_bytes", "source=same-commit") == size_bytes
    assert host.counter("neffd_prefetch_wasted_bytes", "source=same-commit") == 4 * size_bytes
    assert host.status()["runs"]["prefetch"]["same-commit"]["used_bytes"] == size_bytes


def is_ready(host: Daemon, name: ModuleName) -> bool:
    mark: Path = host.cache / name.namespace / name.key / "model.done"
    return mark.exists()
