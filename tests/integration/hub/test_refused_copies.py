"""A copy that failed verification: kept for a look, not asked for again, over restarts, until the Hub has another."""

from __future__ import annotations

import json
from pathlib import Path

from neff.keys import ModuleName
from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess
from tests.integration.hub.conftest import REPO, MakeHost
from tests.integration.hub.test_hub_round_trip import answered, fetch

NAME, OTHER = entries.module(1), entries.module(2)
_HEAD = "HEAD /{namespace}/{name}/resolve/{revision}/{path}"
_TORN = entries.neff_bytes(1)[:-100]  # shorter than its own header says, and without a neffd.json nothing proves it


def seed(hub: HubProcess, name: ModuleName, **changed: bytes) -> None:
    content = entries.files(name) | {"model.neff": changed.get("neff", entries.neff_bytes(1))}
    hub.seed_files(REPO, {f"{name}/{file}": data for file, data in content.items()})


def refusals(host: Daemon) -> float:
    counted = host.status()["counters"]["neffd_refused"]
    return sum(counted.values()) if isinstance(counted, dict) else float(counted)


def shown(host: Daemon) -> list[dict[str, str]]:
    copies: list[dict[str, str]] = host.status()["remotes"][0]["refused"]["shown"]
    return copies


def spoil_downloads(hub: HubProcess) -> None:
    """What arrives is not what the Hub states."""
    hub.add_fault("GET (/alice/cache/resolve|/content).*", kind="corrupt", times=None)


def test_it_is_kept_and_not_asked_for_until_it_changed(make_host: MakeHost, hub: HubProcess) -> None:
    seed(hub, NAME)
    with make_host("b") as host:
        spoil_downloads(hub)
        eventually(lambda: fetch(host, NAME) == {str(NAME): "refused"}, "the copy is refused")  # a busy machine
        assert fetch(host, NAME) == {str(NAME): "refused"}
        (copy,) = shown(host)
        assert (copy["name"], copy["reason"]) == (str(NAME), "digest-mismatch")
        about = json.loads((Path(copy["folder"]) / "reason.json").read_text())
        assert (about["remote"], about["name"]) == ("hub", str(NAME))
        hub.clear_faults()
        assert host.stop() == 0
        host.start()
        assert shown(host) == [copy]
        assert fetch(host, NAME) == {str(NAME): "refused"}
        eventually(lambda: host.status()["remotes"][0]["can_write"], "it is known what may be done there")
        hub.reset_counters()
        for _ in range(3):
            assert fetch(host, NAME) == {str(NAME): "refused"}
        assert set(hub.counters()["requests"]) <= {_HEAD}, "the head is polled, the copy is not asked for"
        seed(hub, OTHER)
        eventually(lambda: fetch(host, OTHER) == {str(OTHER): "ready"}, "another entry")
        assert fetch(host, NAME) == {str(NAME): "refused"}, "another commit is no other copy"
        assert refusals(host) == 0, "nothing was fetched to find that out"
        seed(hub, NAME, neff=entries.neff_bytes(2))
        eventually(lambda: fetch(host, NAME) == {str(NAME): "ready"}, "the mended copy")
        assert shown(host) == []


def test_what_is_spoilt_on_the_way_once_is_fetched_again(make_host: MakeHost, hub: HubProcess) -> None:
    seed(hub, NAME)
    with make_host("b") as host:
        hub.add_fault("GET (/alice/cache/resolve|/content).*", kind="corrupt", times=1)
        assert answered(host, NAME) == {str(NAME): "ready"}
        assert shown(host) == []
        assert refusals(host) == 0
        assert "once more: digest-mismatch" in host.log


def test_an_own_entry_is_parked_while_the_copy_is_the_refused_one(make_host: MakeHost, hub: HubProcess) -> None:
    seed(hub, NAME)
    with make_host("b") as host:
        spoil_downloads(hub)
        eventually(lambda: fetch(host, NAME) == {str(NAME): "refused"}, "the copy is refused")  # a busy machine
        hub.clear_faults()
        entries.write(host.cache, NAME, entries.files(NAME, seed=5))
        parked = host.ask("flush", timeout_s=30)[-1]["parked"]
        assert parked == [{"name": str(NAME), "remote": "hub", "reason": "refused-copy-there"}]


def test_an_own_entry_is_closed_when_the_copy_there_was_mended(make_host: MakeHost, hub: HubProcess) -> None:
    seed(hub, NAME)
    # The head is looked at too seldom for the daemon to have seen the change by itself.
    with make_host("b", remote={"poll_s": 600}) as host:
        spoil_downloads(hub)
        eventually(lambda: fetch(host, NAME) == {str(NAME): "refused"}, "the copy is refused")  # a busy machine
        hub.clear_faults()
        seed(hub, NAME, neff=entries.neff_bytes(2))
        entries.write(host.cache, NAME, entries.files(NAME, seed=5))
        answer = host.ask("flush", timeout_s=30)[-1]
        assert (answer["pending"], answer["parked"]) == (0, [])
        assert host.counter("neffd_already_there", "remote=hub") == 1
