"""The way down as a host sees it: a real daemon, a local Hub, and how often that is asked for what."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from neff.keys import ModuleName
from tests.harness import entries
from tests.harness.daemon import Daemon, RawClient
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess
from tests.integration.hub.conftest import REPO, MakeHost

HEAD = "HEAD /{namespace}/{name}/resolve/{revision}/{path}"
RESOLVE = "GET /{namespace}/{name}/resolve/{revision}/{path}"
CONTENT = "GET /content/{store}/{key}"
PATHS_INFO = "POST /api/{type}/{namespace}/{name}/paths-info/{revision}"
TREE = "GET /api/{type}/{namespace}/{name}/tree/{revision}/{path}"
# Looks that belong to uploads are not counted here.
SLOW_POLL = {"poll_s": 60, "mode": "read"}
# Nor is what is fetched for the job as a whole.
ONLY_ASKED = {"runs": {"prefetch": False}}


def seed(hub: HubProcess, count: int, neff_bytes: int = 20_000) -> dict[ModuleName, dict[str, bytes]]:
    """Entries on the Hub, by name."""
    content = {}
    for number in range(count):
        name = entries.module(number)
        content[name] = {**entries.files(name), "model.neff": entries.neff_bytes(number, neff_bytes)}
    hub.seed_files(REPO, {f"{name}/{file}": data for name, files in content.items() for file, data in files.items()})
    return content


def resolve(host: Daemon, *names: ModuleName, root: Path | None = None) -> Counter[str]:
    """Ask as a trainer does, until the remote's word comes in time; how many were answered how."""

    def look() -> Counter[str]:
        with contextlib.closing(RawClient(host.socket, {"root": str(root or host.cache)})) as client:
            answers = client.ask("resolve", namespace=entries.NAMESPACE, keys=[name.key for name in names])
        final = [answer for answer in answers if answer.get("state") in ("ready", "absent")]
        told = Counter(str(answer.get("reason", answer["state"])) for answer in final)
        return Counter() if told["remote-unavailable"] else told  # a starved machine's first look may take too long

    return eventually(look, "an answer of the remote")


def wait_until_known(host: Daemon) -> None:
    """Until the remote has answered: what is asked at once may come too late on a starved machine."""
    assert resolve(host, entries.module(999)) == {"not-on-remotes": 1}


def listed(host: Daemon) -> bool:
    """Whether the daemon has a picture of the remote's keys."""
    return bool(host.status()["remotes"][0]["catalog"]["namespaces"])


def test_a_hundred_entries_asked_at_once(make_host: MakeHost, hub: HubProcess) -> None:
    content = seed(hub, 100)
    with make_host("a", remote=SLOW_POLL, overrides=ONLY_ASKED) as host:
        assert resolve(host, *content) == {"ready": 100}
        requests = hub.counters()["requests"]
        assert requests[RESOLVE] == 201, "NEFF and HLO of each, and the one set of flags that all have"
        assert requests[PATHS_INFO] <= 5
        assert requests[HEAD] + requests.get(TREE, 0) <= 3
        for name, files in content.items():
            assert entries.read(host.cache, name) == files


def test_one_after_another_costs_a_question_and_the_files(make_host: MakeHost, hub: HubProcess) -> None:
    content = seed(hub, 6)
    first, *others = content
    with make_host("a", remote=SLOW_POLL, overrides=ONLY_ASKED) as host:
        assert resolve(host, first) == {"ready": 1}
        eventually(lambda: listed(host), "the listing")
        hub.reset_counters()
        for name in others:
            assert resolve(host, name) == {"ready": 1}
        requests = hub.counters()["requests"]
        assert (requests[RESOLVE], requests[PATHS_INFO]) == (10, 5)
        assert requests.get(HEAD, 0) <= 1


def begun(host: Daemon) -> list[dict[str, Any]]:
    """Fetches whose turn has come."""
    return [fetch for fetch in host.status()["fetching"] if fetch["total_bytes"]]


def test_one_entry_for_two_cache_directories_comes_once(make_host: MakeHost, hub: HubProcess) -> None:
    content = seed(hub, 1, neff_bytes=4_000_000)
    (name,) = content
    host = make_host("a", remote=SLOW_POLL)
    second = host.home / "second"
    host.config["cache_dirs"] = [str(host.cache), str(second)]
    hub.add_fault("GET /content", kind="stall", times=None)
    with host:
        wait_until_known(host)
        hub.reset_counters()
        clients = [RawClient(host.socket, {"root": str(root)}) for root in (host.cache, second)]
        for number, client in enumerate(clients):
            client.send({"id": 1, "op": "resolve", "namespace": name.namespace, "keys": [name.key]})
            hub.wait_for_requests(CONTENT, 2)
            # Files are asked for, or shared, in the turn of the loop in which their bytes are known.
            eventually(lambda count=number + 1: len(begun(host)) == count, "its files are under way")  # type: ignore[misc]
        hub.clear_faults()
        for client in clients:
            while (answer := client.receive()).get("state") != "ready":
                assert answer.get("state") in ("asking", "fetching")
            client.close()
        assert hub.counters()["requests"][RESOLVE] == 3
        assert entries.read(host.cache, name) == entries.read(second, name) == content[name]


def test_what_one_cache_directory_has_the_other_gets_without_a_request(make_host: MakeHost, hub: HubProcess) -> None:
    content = seed(hub, 1)
    (name,) = content
    host = make_host("a", remote=SLOW_POLL)
    second = host.home / "second"
    host.config["cache_dirs"] = [str(host.cache), str(second)]
    with host:
        assert resolve(host, name) == {"ready": 1}
        hub.reset_counters()
        assert resolve(host, name, root=second) == {"ready": 1}
        assert RESOLVE not in hub.counters()["requests"]
        assert entries.read(second, name) == content[name]


def test_an_entry_that_is_not_ready_leaves_nothing_behind(make_host: MakeHost, hub: HubProcess) -> None:
    good, name = entries.module(1), entries.module(2)
    hub.seed_files(REPO, {f"{good}/{file}": data for file, data in entries.files(good).items()})
    hub.seed_files(REPO, {f"{name}/{file}": data for file, data in entries.files(name).items() if data})
    with make_host("a", remote=SLOW_POLL) as host:
        assert resolve(host, good) == {"ready": 1}
        eventually(lambda: listed(host), "the listing, where it looks as if it were there")
        hub.reset_counters()
        assert resolve(host, name) == {"not-on-remotes": 1}
        # NEFF and HLO were on their way, unless the word on them was quicker.
        assert hub.counters()["requests"].get(RESOLVE, 0) <= 2
        assert entries.read(host.cache, name) == {}
        assert list((host.home / "cache.neffd" / "fetch").glob("*")) == []


def test_from_a_repo_that_was_made_anew_entries_come_at_once(make_host: MakeHost, hub: HubProcess) -> None:
    """The commit that they were last seen at is gone; nobody waits for the next look at the branch."""
    first, second, left_out = content = seed(hub, 3)
    with make_host("a", remote=SLOW_POLL, overrides=ONLY_ASKED) as host:
        assert resolve(host, first) == {"ready": 1}
        eventually(lambda: listed(host), "the listing")
        request = urllib.request.Request(
            f"{hub.endpoint}/api/repos/delete",
            json.dumps({"name": "cache", "organization": "alice", "type": "model"}).encode(),
            {"Authorization": f"Bearer {hub.token('alice')}", "Content-Type": "application/json"},
            method="DELETE",
        )
        urllib.request.urlopen(request, timeout=10).close()
        kept = {f"{second}/{file}": data for file, data in content[second].items()}
        hub.seed_files(REPO, {**kept, "another": b"one"}, private=True)
        assert resolve(host, second) == {"ready": 1}
        assert resolve(host, left_out) == {"not-on-remotes": 1}
        assert entries.read(host.cache, second) == content[second]


@pytest.mark.parametrize("is_prefetched", [False, True])
def test_within_a_limit_of_bytes_what_a_trainer_waits_for_overtakes(
    make_host: MakeHost, hub: HubProcess, is_prefetched: bool
) -> None:
    """With room for one entry at a time, the trainer's is the next, even where it waited in line before."""
    content = seed(hub, 8, neff_bytes=300_000)
    urgent = list(content)[-1]
    prefetched = list(content)[: None if is_prefetched else -1]
    limits = {"fetch": {"max_bytes_in_flight": 1_000}}
    with make_host("a", remote=SLOW_POLL, overrides=limits) as host:
        wait_until_known(host)
        # The one that is under way stays there until the trainer has asked.
        hub.add_fault("GET .*model.neff", kind="stall", times=None)
        host.ask("prefetch", names=[str(name) for name in prefetched])
        eventually(lambda: len(host.status()["fetching"]) == len(prefetched), "all of them under way")
        with contextlib.closing(RawClient(host.socket, {"root": str(host.cache)})) as client:
            client.send({"id": 1, "op": "resolve", "namespace": urgent.namespace, "keys": [urgent.key]})
            eventually(lambda: len(host.status()["fetching"]) == len(content), "the trainer's too")
            assert client.receive()["state"] == "fetching"
            hub.clear_faults()
            while (answer := client.receive()).get("state") != "ready":
                assert answer.get("state") == "fetching"
        eventually(lambda: all(entries.read(host.cache, name) for name in content), "everything in the end")
        placed = [line for line in host.log.splitlines() if "from hub: placed" in line]
        position = next(number for number, line in enumerate(placed) if urgent.key in line)
        assert position <= 1, "only what was under way came before it"


def test_a_hundred_unknown_keys_of_thirty_two_ranks(make_host: MakeHost, hub: HubProcess) -> None:
    """Together with the listing at hand: next to nothing. One after another: only whether the head moved."""
    (known,) = seed(hub, 1)
    unknown = [entries.module(number) for number in range(1_000, 1_100)]
    with make_host("a", remote=SLOW_POLL) as host, contextlib.ExitStack() as open_clients:
        assert resolve(host, known) == {"ready": 1}
        eventually(lambda: listed(host), "the listing")
        ranks = [RawClient(host.socket, {"root": str(host.cache)}) for _ in range(32)]
        for rank in ranks:
            open_clients.callback(rank.close)
        hub.reset_counters()
        for rank in ranks:
            keys = [name.key for name in unknown]
            rank.send({"id": 1, "op": "resolve", "namespace": entries.NAMESPACE, "keys": keys})
        for rank in ranks:
            while not (answer := rank.receive()).get("done"):
                assert answer["reason"] == "not-on-remotes"
        assert sum(hub.counters()["requests"].values()) <= 3
        hub.reset_counters()
        for name in unknown[:20]:
            assert resolve(host, name) == {"not-on-remotes": 1}
        assert set(hub.counters()["requests"]) <= {HEAD}
