"""Two hosts and a Hub repo: real daemons, real huggingface_hub and hf_xet, a local Hub."""

from __future__ import annotations

import pytest

from neff.keys import ModuleName
from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess
from tests.integration.hub.conftest import REPO, MakeHost


def fetch(host: Daemon, *names: ModuleName) -> dict[str, str]:
    """The final state of each name, or its reason where it is absent."""
    answers = host.ask("prefetch", names=[str(name) for name in names], wait=True)
    return {
        answer["name"]: answer.get("reason", answer["state"])
        for answer in answers
        if answer.get("state") != "fetching" and "name" in answer
    }


def answered(host: Daemon, *names: ModuleName) -> dict[str, str]:
    """The same, asked until the remote's word comes in time: a starved machine's may come too late for a trainer."""

    def look() -> dict[str, str]:
        told = fetch(host, *names)
        return {} if "remote-unavailable" in told.values() else told

    return eventually(look, "an answer of the remote")


def on_hub(hub: HubProcess, name: ModuleName) -> dict[str, bytes]:
    """An entry's files on the Hub."""
    prefix = f"{name}/"
    return {path.removeprefix(prefix): data for path, data in hub.read_files(REPO).items() if path.startswith(prefix)}


@pytest.mark.parametrize("namespace", [entries.OLD_NAMESPACE, entries.NAMESPACE])
def test_entries_arrive_byte_for_byte(make_host: MakeHost, hub: HubProcess, namespace: str) -> None:
    made = {
        entries.module(number, namespace): entries.files(
            entries.module(number, namespace), seed=number, wrapped=number == 1
        )
        for number in range(3)
    }
    with make_host("a") as host_a, make_host("b") as host_b:
        for name, content in made.items():
            entries.write(host_a.cache, name, content)
        assert host_a.ask("flush", timeout_s=30)[-1]["pending"] == 0
        assert set(answered(host_b, *made).values()) == {"ready"}
        for name, content in made.items():
            assert entries.read(host_b.cache, name) == content
            assert entries.shared(on_hub(hub, name)) == content


def test_one_batch_is_one_commit_that_names_its_entries(make_host: MakeHost, hub: HubProcess) -> None:
    names = [entries.module(number) for number in range(5)]
    before = len(hub.commits(REPO))
    with make_host("a", overrides={"upload": {"quiet_s": 30, "max_delay_s": 60}}) as host:
        for name in names:
            entries.write(host.cache, name, entries.files(name))
        eventually(lambda: host.status()["remotes"][0]["journal"]["waiting"] == len(names), "all wait together")
        assert host.ask("flush", timeout_s=30)[-1]["pending"] == 0
    (commit,) = hub.commits(REPO)[: len(hub.commits(REPO)) - before]
    assert commit["title"] == "Add 5 compiled graphs"
    assert set(commit["message"].split()) >= {str(name) for name in names}


def test_a_miss_is_seen_as_soon_as_another_host_published(make_host: MakeHost) -> None:
    name = entries.module(1)
    with make_host("a") as host_a, make_host("b") as host_b:
        assert answered(host_b, name) == {str(name): "not-on-remotes"}
        entries.write(host_a.cache, name, entries.files(name))
        assert host_a.ask("flush", timeout_s=30)[-1]["pending"] == 0
        eventually(lambda: fetch(host_b, name) == {str(name): "ready"}, "the other host's entry")


def test_the_same_key_with_other_bytes_stays_the_first_hosts(make_host: MakeHost, hub: HubProcess) -> None:
    name = entries.module(1)
    first, second = entries.files(name, seed=1), entries.files(name, seed=2)
    with make_host("a") as host_a, make_host("b") as host_b:
        entries.write(host_a.cache, name, first)
        host_a.wait_until_pushed(1, "hub")
        entries.write(host_b.cache, name, second)
        host_b.wait_until_pushed(1, "hub")
        assert host_b.counter("neffd_already_there", "remote=hub") == 1
        assert host_b.journal_is_empty()
    assert entries.shared(on_hub(hub, name)) == first


def test_two_hosts_publish_the_same_keys_at_once(make_host: MakeHost, hub: HubProcess) -> None:
    names = [entries.module(number) for number in range(6)]
    content = {host: {name: entries.files(name, seed=seed) for name in names} for seed, host in enumerate("ab")}
    with make_host("a") as host_a, make_host("b") as host_b:
        for name in names:
            entries.write(host_a.cache, name, content["a"][name])
            entries.write(host_b.cache, name, content["b"][name])
        for host in (host_a, host_b):
            assert host.ask("flush", timeout_s=40)[-1] == {"id": 1, "pending": 0, "parked": [], "done": True}
    for name in names:
        assert entries.shared(on_hub(hub, name)) in (content["a"][name], content["b"][name])


def test_a_late_file_joins_its_entry(make_host: MakeHost, hub: HubProcess) -> None:
    name = entries.module(1)
    with make_host("a") as host:
        folder = entries.write(host.cache, name, entries.files(name))
        host.wait_until_pushed(1, "hub")
        (folder / "wrapped_neff.hlo").write_bytes(b"\0late")
        assert host.ask("flush", timeout_s=30)[-1]["pending"] == 0
    assert on_hub(hub, name)["wrapped_neff.hlo"] == b"\0late"


def test_a_wrong_copy_is_refused_and_not_seen(make_host: MakeHost, hub: HubProcess) -> None:
    name = entries.module(1)
    with make_host("a") as host_a:
        entries.write(host_a.cache, name, entries.files(name))
        host_a.wait_until_pushed(1, "hub")
    with make_host("b") as host_b:
        hub.add_fault(rf"GET .*{name.key.replace('+', '(%2B|.)')}.*model.neff|GET /content", kind="corrupt", times=None)
        assert answered(host_b, name) == {str(name): "refused"}
        assert entries.read(host_b.cache, name) == {}
        assert host_b.counter("neffd_refused", "remote=hub,reason=digest-mismatch") == 1


def test_a_public_repo_receives_nothing(make_host: MakeHost, hub: HubProcess) -> None:
    hub.seed_files("alice/open", {}, private=False)
    name = entries.module(1)
    with make_host("a", remote={"url": "hf://alice/open"}) as host:
        entries.write(host.cache, name, entries.files(name))
        answer = host.ask("flush", timeout_s=30)[-1]
        assert answer["parked"] == [{"name": str(name), "remote": "hub", "reason": "public-repo"}]
        assert host.counter("neffd_journal_parked", "remote=hub") == 1
        assert not any("MODULE" in path for path in hub.read_files("alice/open"))


def test_a_read_token_reads_and_pushes_nothing(make_host: MakeHost, hub: HubProcess) -> None:
    theirs, mine = entries.module(1), entries.module(2)
    with make_host("a") as host_a:
        entries.write(host_a.cache, theirs, entries.files(theirs))
        host_a.wait_until_pushed(1, "hub")
    with make_host("b", role="read") as host_b:
        assert answered(host_b, theirs) == {str(theirs): "ready"}
        entries.write(host_b.cache, mine, entries.files(mine))
        assert host_b.ask("flush", timeout_s=2)[-1]["pending"] == 1
        eventually(lambda: host_b.status()["remotes"][0]["reason"] == "no-write-access", "it is found out")
        assert host_b.status()["remotes"][0]["can_write"] is False
        commits = [route for route in hub.counters()["requests"] if "commit/" in route and "POST" in route]
        hub.reset_counters()
        assert commits != []
        assert host_b.ask("flush", timeout_s=1)[-1]["pending"] == 1
        assert not [route for route in hub.counters()["requests"] if "commit/" in route]


def test_without_a_token_a_private_repo_is_not_found(make_host: MakeHost) -> None:
    name = entries.module(1)
    with make_host("a", role=None, environ={"HF_HOME": "/nonexistent"}) as host:
        assert fetch(host, name) == {str(name): "remote-unavailable"}
        eventually(lambda: host.status()["remotes"][0]["reason"] == "repo-not-found", "the reason")
