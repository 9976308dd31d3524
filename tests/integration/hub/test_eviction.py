"""Room in a cache directory whose remote is a Hub repo that others fill: what goes can be had from there."""

from __future__ import annotations

from tests.harness import entries
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess
from tests.integration.hub.conftest import REPO, MakeHost
from tests.integration.hub.test_hub_round_trip import answered
from tests.integration.test_eviction import limited, ready, space, write


def test_an_entry_stays_of_which_the_hub_has_only_the_graph(make_host: MakeHost, hub: HubProcess) -> None:
    whole = entries.module(0)
    hub.seed_files(REPO, {f"{whole}/{file}": data for file, data in entries.files(whole).items()})
    graphs = [entries.module(number) for number in (1, 2)]
    hub.seed_files(REPO, {f"{name}/model.hlo_module.pb": b"hlo" for name in graphs})
    with make_host("a", role="read", remote={"mode": "read"}, overrides=limited(1)) as host:
        for number in range(3):
            write(host, number)
        eventually(lambda: ready(host) == {1, 2}, "what the Hub really holds goes")
        eventually(lambda: space(host)["kept"] == {"not-shared": 2}, "and the others are said to be nowhere else")
        assert answered(host, whole) == {str(whole): "ready"}
        assert ready(host) >= {1, 2}
