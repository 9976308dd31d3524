"""A remote in trouble on one side: the other goes on, the status says which and why, and nothing is hammered."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess
from tests.integration.hub.conftest import REPO, MakeHost
from tests.integration.hub.test_hub_round_trip import answered, fetch

THEIRS, MINE = entries.module(1), entries.module(2)
_LISTING = "GET /api/{type}/{namespace}/{name}/tree/{revision}/{path}"
_QUOTA: dict[str, Any] = {"status": 429, "headers": {"Retry-After": "120"}, "times": None}


def seed(hub: HubProcess) -> None:
    hub.seed_files(REPO, {f"{THEIRS}/{file}": data for file, data in entries.files(THEIRS).items()})


def breaker(host: Daemon, side: str) -> dict[str, Any]:
    found: dict[str, Any] = host.status()["remotes"][0]["breaker"][side]
    return found


def state(host: Daemon, side: str) -> str:
    return str(breaker(host, side)["state"])


def is_closed(host: Daemon, side: str) -> bool:
    return state(host, side) == "closed"


def test_used_up_reads_do_not_stop_uploads(make_host: MakeHost, hub: HubProcess) -> None:
    seed(hub)
    hub.add_fault("GET /api/models/alice/cache/tree/", **_QUOTA)
    with make_host("a") as host:
        entries.write(host.cache, MINE, entries.files(MINE))
        # A first look that came too late was the reason until the second.
        eventually(lambda: breaker(host, "read")["reason"] == "rate-limited", "the listing to be refused")
        assert state(host, "read") == "open"
        assert breaker(host, "read")["retry_s"] > 60
        assert host.counter("neffd_remote_breaker", "remote=hub,side=read") == 2
        host.wait_until_pushed(1, "hub")
        assert state(host, "write") == "closed"
        listed = sum(count for route, count in hub.counters()["requests"].items() if "/tree/" in route)
        assert fetch(host, entries.module(3)) == {str(entries.module(3)): "remote-unavailable"}
        again = sum(count for route, count in hub.counters()["requests"].items() if "/tree/" in route)
        assert again == listed == 1, "not asked again before the Hub allows it"


def test_used_up_commits_do_not_stop_downloads(make_host: MakeHost, hub: HubProcess) -> None:
    seed(hub)
    with make_host("a") as host:
        hub.add_fault("POST /api/models/alice/cache/commit/", **_QUOTA)
        entries.write(host.cache, MINE, entries.files(MINE))
        eventually(lambda: breaker(host, "write")["reason"] == "rate-limited", "the commit to be refused")
        assert state(host, "write") == "open"
        assert answered(host, THEIRS) == {str(THEIRS): "ready"}
        assert state(host, "read") == "closed"


def test_a_hub_that_is_away_stops_both_and_both_come_back(make_host: MakeHost, hub: HubProcess) -> None:
    seed(hub)
    with make_host("a") as host:
        eventually(lambda: host.status()["remotes"][0]["can_write"], "a look at the rights")
        hub.stop()
        assert set(fetch(host, THEIRS, MINE, entries.module(3)).values()) == {"remote-unavailable"}
        for side in ("read", "write"):
            assert state(host, side) != "closed"
            assert breaker(host, side)["reason"] == "unreachable"
        hub.start()
        for side in ("read", "write"):
            eventually(partial(is_closed, host, side), f"the {side} side to heal", timeout_s=60)
        assert MINE.key not in host.log, "one line a remote, not one a graph"
        told = [line for line in host.log.splitlines() if " remote hub" in line]
        assert any(": unreachable" in line for line in told)
        assert told[-1].endswith(" answers again")
        assert answered(host, THEIRS) == {str(THEIRS): "ready"}
