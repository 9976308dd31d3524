"""Eight hosts that publish overlapping entries to one repo at once, some with other bytes under the same key."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from neff.keys import ModuleName
from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.hub.process import HubProcess
from tests.integration.hub.conftest import REPO, MakeHost

HOSTS = "abcdefgh"
Content = dict[str, dict[ModuleName, dict[str, bytes]]]


def overlapping() -> Content:
    """Four entries a host, each shared with up to three neighbours; every other key has other bytes on each host."""
    return {
        host: {
            name: entries.files(name, seed=100 * number if number % 2 else 100 * number + seed)
            for number in range(seed, seed + 4)
            for name in [entries.module(number)]
        }
        for seed, host in enumerate(HOSTS)
    }


def on_hub(hub: HubProcess, content: Content) -> dict[ModuleName, dict[str, bytes]]:
    """What the repo holds of each entry that any host made."""
    files = hub.read_files(REPO)
    names = {name for made in content.values() for name in made}
    return {
        name: {path.removeprefix(f"{name}/"): data for path, data in files.items() if path.startswith(f"{name}/")}
        for name in names
    }


def flush(hosts: dict[str, Daemon]) -> None:
    for host in hosts.values():
        answer = host.ask("flush", timeout_s=60)[-1]
        assert (answer["pending"], answer["parked"]) == (0, []), host.log


@pytest.mark.timeout(180)
def test_every_key_arrives_and_is_wholly_one_hosts(make_host: MakeHost, hub: HubProcess) -> None:
    content = overlapping()
    with ExitStack() as stack:
        hosts = {host: stack.enter_context(make_host(host)) for host in content}
        for host, made in content.items():
            for name, files in made.items():
                entries.write(hosts[host].cache, name, files)
        flush(hosts)
        assert all(host.journal_is_empty() for host in hosts.values())
    arrived = on_hub(hub, content)
    assert len(arrived) == 11
    for name, found in arrived.items():
        assert entries.shared(found) in [made[name] for made in content.values() if name in made]
        stated = {file: facts["size_bytes"] for file, facts in json.loads(found["neffd.json"])["files"].items()}
        assert stated == {file: len(data) for file, data in entries.shared(found).items()}
    messages = [str(commit["message"]) for commit in hub.commits(REPO)]
    assert len(messages) <= 1 + len(arrived), "each commit but the repo's first brings a key that was not there"
