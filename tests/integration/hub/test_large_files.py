"""Large files on bad days: a broken transfer goes on, and one of a host without requests comes by Xet."""

from __future__ import annotations

import urllib.request

from neff.keys import ModuleName
from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.hub.process import HubProcess
from tests.integration.hub.conftest import REPO, MakeHost
from tests.integration.hub.test_hub_round_trip import answered

_RESOLVE = "GET /{namespace}/{name}/resolve/{revision}/{path}"
_NEFF_BYTES = 6 << 20


def seed(hub: HubProcess, *names: ModuleName) -> dict[ModuleName, dict[str, bytes]]:
    made = {
        name: {**entries.files(name, seed=number), "model.neff": entries.neff_bytes(number, _NEFF_BYTES)}
        for number, name in enumerate(names)
    }
    on_hub = {f"{name}/{file}": data for name, content in made.items() for file, data in content.items()}
    hub.seed_files(REPO, on_hub, xet=True)
    return made


def test_a_broken_transfer_of_a_large_file_goes_on(make_host: MakeHost, hub: HubProcess) -> None:
    name = entries.module(1)
    made = seed(hub, name)
    with make_host("a") as host:
        wait_until_known(host)
        hub.add_fault("GET /content/", kind="truncate", after_bytes=5 << 20)  # only the NEFF has as much
        hub.reset_counters()
        assert answered(host, name) == {str(name): "ready"}
        assert entries.read(host.cache, name) == made[name]
    # Its beginning did not come twice, but for what a connection may hold when it breaks.
    assert hub.counters()["bytes_out"] < _NEFF_BYTES + (2 << 20)


def test_where_requests_run_low_large_files_come_by_xet(make_host: MakeHost, hub: HubProcess) -> None:
    names = [entries.module(number) for number in range(3)]
    made = seed(hub, *names)
    hub.set(resolver_quota=200)
    for _ in range(185):  # by whoever shares the token
        spend_one(hub)
    with make_host("a", remote={"poll_s": 60}) as host:
        wait_until_known(host)
        hub.reset_counters()
        assert answered(host, *names) == {str(name): "ready" for name in names}
        for name in names:
            assert entries.read(host.cache, name) == made[name]
    asked = hub.counters()["requests"]
    assert asked.get(_RESOLVE, 0) <= len(names), "no more than what is not in the chunk store"
    assert asked["GET /v2/reconstructions/{hash}"] >= len(names)
    assert asked["GET /api/{type}/{namespace}/{name}/xet-read-token/{revision}"] == 1


def wait_until_known(host: Daemon) -> None:
    nobodys = entries.module(9)
    assert answered(host, nobodys) == {str(nobodys): "not-on-remotes"}


def spend_one(hub: HubProcess) -> None:
    request = urllib.request.Request(f"{hub.endpoint}/{REPO}/resolve/main/.gitattributes", method="HEAD")
    request.add_header("Authorization", f"Bearer {hub.token('alice')}")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
