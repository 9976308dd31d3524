"""Runs across hosts by way of a Hub repo: known before the first question, or guessed by what came together."""

from __future__ import annotations

from pathlib import Path

import pytest

from neff.keys import ModuleName
from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess
from tests.integration.hub.conftest import REPO, MakeHost
from tests.integration.test_runs import INGREDIENTS, NAMES, a_run, compile_all, plan, rank_of

# A look at a remote's manifests that takes too long lets them rest for up to half a minute.
_TOLD_WITHIN_S = 60.0
LATER = [entries.module(number) for number in range(100, 104)]


@pytest.mark.timeout(180)
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
    eventually(lambda: plan(third, a_run("next"))["modules"] == len(NAMES), "both halves are told", _TOLD_WITHIN_S)
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
    eventually(lambda: host.counter("neffd_prefetch_wasted_bytes", "source=same-commit"), "it is judged")
    assert host.counter("neffd_prefetch_wasted_bytes", "source=same-commit") == 4 * size_bytes
    assert host.status()["runs"]["prefetch"]["same-commit"]["used_bytes"] == size_bytes


def is_ready(host: Daemon, name: ModuleName) -> bool:
    mark: Path = host.cache / name.namespace / name.key / "model.done"
    return mark.exists()


def test_what_belongs_to_a_model_that_is_not_public_waits_until_it_is(hub: HubProcess, make_host: MakeHost) -> None:
    """The model's name is all that its run says: whether everybody may see it is asked of the Hub, without a token."""
    shared = "alice/shared"
    for repo_id, is_private in ((shared, False), ("alice/open", False), ("alice/secret", True)):
        hub.seed_files(repo_id, {}, private=is_private)
    host = make_host("a", remote={"url": f"hf://{shared}", "allow_public": True})
    host.start()
    for name, model in zip(NAMES, ("alice/secret", "alice/open", "alice/later"), strict=False):
        run = a_run(model, {**INGREDIENTS, "model": {"id": model, "type": "llama"}})
        with rank_of(host, run) as client:
            compile_all(host, client, [name])
            client.ask("run-ended")

    def parked() -> dict[str, str]:
        (remote,) = host.status()["remotes"]
        return {one["name"]: one["reason"] for one in remote["journal"]["parked"]}

    held = {str(NAMES[0]): "private-model", str(NAMES[2]): "private-model"}
    eventually(lambda: parked() == held and told_to(hub, shared) == {NAMES[1].key}, "one may go, and goes")
    eventually(lambda: host.status()["remotes"][0]["manifests"]["held"] == 2, "so does its manifest alone")
    hub.seed_files("alice/later", {}, private=False)
    host.kill()
    host.start()
    eventually(lambda: told_to(hub, shared) == {NAMES[1].key, NAMES[2].key}, "what has become public goes")
    eventually(lambda: list(parked()) == [str(NAMES[0])], "and nothing else")
    assert not any("alice/secret" in path for path in hub.read_files(shared))


def told_to(hub: HubProcess, repo_id: str) -> set[str]:
    """Keys of the modules that a repo holds."""
    return {path.split("/")[1] for path in hub.read_files(repo_id) if path.endswith("/model.done")}
