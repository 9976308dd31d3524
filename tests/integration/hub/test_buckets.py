"""Hosts that share a storage bucket: real daemons, real huggingface_hub and hf_xet, a local Hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from neff.keys import ModuleName
from neffd.remotes.base import RemoteUnavailable
from neffd.remotes.hub.workers import HubWorker
from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.harness.processes import children, is_gone
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess
from tests.integration.hub.conftest import MakeHost

BUCKET = "alice/shared"
_BATCH = "POST /api/buckets/{namespace}/{name}/batch"
MakeBucketHost = Callable[..., Daemon]


@pytest.fixture
def make_bucket_host(hub: HubProcess, make_host: MakeHost) -> MakeBucketHost:
    """Makes daemons by host name whose remote `hub` is the private bucket `alice/shared`."""
    hub.seed_bucket(BUCKET, {}, private=True)

    def make(host: str, *, remote: dict[str, Any] | None = None, **options: Any) -> Daemon:
        return make_host(host, remote={"url": f"hf://buckets/{BUCKET}", **(remote or {})}, **options)

    return make


def fetch(host: Daemon, *names: ModuleName) -> dict[str, str]:
    """The final state of each name, or its reason where it is absent."""
    answers = host.ask("prefetch", names=[str(name) for name in names], wait=True)
    return {
        answer["name"]: answer.get("reason", answer["state"])
        for answer in answers
        if answer.get("state") != "fetching" and "name" in answer
    }


def fetch_all(host: Daemon, *names: ModuleName) -> None:
    """Until all are there: the first listing waits for a process to start."""
    eventually(lambda: set(fetch(host, *names).values()) == {"ready"}, "the entries")


def in_bucket(hub: HubProcess, name: ModuleName, bucket: str = BUCKET) -> dict[str, bytes]:
    """An entry's files in the bucket."""
    prefix, files = f"{name}/", hub.read_bucket(bucket)
    return {path.removeprefix(prefix): data for path, data in files.items() if path.startswith(prefix)}


def flush(host: Daemon) -> None:
    """Until everything that the host made is published."""
    answer = host.ask("flush", timeout_s=40)[-1]
    assert (answer["pending"], answer["parked"]) == (0, [])


def test_what_is_asked_for_while_a_long_listing_is_made(make_bucket_host: MakeBucketHost, hub: HubProcess) -> None:
    there, missing = entries.module(1), entries.module(2)
    hub.seed_bucket(BUCKET, {f"{there}/{file}": data for file, data in entries.files(there).items()}, private=True)
    hub.add_fault(f"GET /api/buckets/.*/tree/{there.namespace.replace('+', '.+')}", kind="stall", times=None)
    with make_bucket_host("b") as host:
        fetch_all(host, there)
        eventually(lambda: fetch(host, missing) == {str(missing): "not-on-remotes"}, "the word on the other")
        assert any("tree" in route for route in hub.counters()["requests"]), "a listing was begun"


@pytest.mark.parametrize("namespace", [entries.OLD_NAMESPACE, entries.NAMESPACE])
def test_entries_arrive_byte_for_byte(make_bucket_host: MakeBucketHost, hub: HubProcess, namespace: str) -> None:
    made = {
        entries.module(number, namespace): entries.files(
            entries.module(number, namespace), seed=number, wrapped=number == 1
        )
        for number in range(3)
    }
    with make_bucket_host("a") as host_a, make_bucket_host("b") as host_b:
        for name, content in made.items():
            entries.write(host_a.cache, name, content)
        flush(host_a)
        fetch_all(host_b, *made)
        for name, content in made.items():
            assert entries.read(host_b.cache, name) == content
            assert entries.shared(in_bucket(hub, name)) == content


def test_a_batch_is_two_calls(make_bucket_host: MakeBucketHost, hub: HubProcess) -> None:
    names = [entries.module(number) for number in range(5)]
    with make_bucket_host("a", overrides={"upload": {"quiet_s": 30, "max_delay_s": 60}}) as host:
        hub.wait_for_requests(_BATCH, 1)  # whether we may write
        hub.reset_counters()
        for name in names:
            entries.write(host.cache, name, entries.files(name))
        eventually(lambda: host.status()["remotes"][0]["journal"]["waiting"] == len(names), "all wait together")
        flush(host)
        assert hub.counters()["requests"][_BATCH] == 2


def test_a_miss_is_seen_as_soon_as_another_host_published(make_bucket_host: MakeBucketHost) -> None:
    first, second = entries.module(1), entries.module(2)
    with make_bucket_host("a") as host_a, make_bucket_host("b") as host_b:
        eventually(lambda: fetch(host_b, first) == {str(first): "not-on-remotes"}, "a first listing")
        for name in (first, second):
            entries.write(host_a.cache, name, entries.files(name))
            flush(host_a)
            fetch_all(host_b, name)
            assert entries.read(host_b.cache, name) == entries.files(name)


def test_a_version_whose_name_begins_alike_is_another(make_bucket_host: MakeBucketHost, hub: HubProcess) -> None:
    ours, other = entries.module(1), entries.module(2, f"{entries.NAMESPACE}b")
    both = (ours, other)
    hub.seed_bucket(BUCKET, {f"{name}/{file}": data for name in both for file, data in entries.files(name).items()})
    with make_bucket_host("a") as host:
        fetch_all(host, ours)
        assert host.status()["remotes"][0]["catalog"]["keys"] == 1


def test_the_same_key_with_other_bytes_stays_the_first_hosts(make_bucket_host: MakeBucketHost, hub: HubProcess) -> None:
    name = entries.module(1)
    first, second = entries.files(name, seed=1), entries.files(name, seed=2)
    with make_bucket_host("a") as host_a, make_bucket_host("b") as host_b:
        entries.write(host_a.cache, name, first)
        flush(host_a)
        entries.write(host_b.cache, name, second)
        flush(host_b)
        assert host_b.counter("neffd_already_there", "remote=hub") == 1
        assert host_b.journal_is_empty()
    assert entries.shared(in_bucket(hub, name)) == first


def publish_at_once(hosts: dict[str, Daemon], content: dict[str, dict[ModuleName, dict[str, bytes]]]) -> None:
    """Every host makes its entries; returns when no journal holds anything."""
    for host, made in content.items():
        for name, files in made.items():
            entries.write(hosts[host].cache, name, files)
    for host in content:
        flush(hosts[host])
        assert hosts[host].journal_is_empty()


def assert_wholly_one_hosts(hub: HubProcess, content: dict[str, dict[ModuleName, dict[str, bytes]]]) -> None:
    for name in {name for made in content.values() for name in made}:
        found = in_bucket(hub, name)
        assert entries.shared(found) in [made[name] for made in content.values() if name in made]
        sizes = {file: stated["size_bytes"] for file, stated in json.loads(found["neffd.json"])["files"].items()}
        assert sizes == {file: len(data) for file, data in entries.shared(found).items()}


@pytest.mark.parametrize("namespace", [entries.OLD_NAMESPACE, entries.NAMESPACE])
def test_two_hosts_publish_the_same_keys_at_once(
    make_bucket_host: MakeBucketHost, hub: HubProcess, namespace: str
) -> None:
    names = [entries.module(number, namespace) for number in range(6)]
    content = {
        host: {name: entries.files(name, seed=seed, wrapped=seed == 1) for name in names}
        for seed, host in enumerate("ab")
    }
    with make_bucket_host("a") as host_a, make_bucket_host("b") as host_b:
        publish_at_once({"a": host_a, "b": host_b}, content)
    assert_wholly_one_hosts(hub, content)


@pytest.mark.timeout(180)
def test_eight_hosts_publish_overlapping_keys_at_once(make_bucket_host: MakeBucketHost, hub: HubProcess) -> None:
    content = {
        host: {
            name: entries.files(name, seed=100 * number if number % 2 else 100 * number + seed)
            for number in range(seed, seed + 4)
            for name in [entries.module(number)]
        }
        for seed, host in enumerate("abcdefgh")
    }
    with ExitStack() as stack:
        hosts = {host: stack.enter_context(make_bucket_host(host)) for host in content}
        publish_at_once(hosts, content)
    assert len({path.split("/")[1] for path in hub.read_bucket(BUCKET)}) == 11
    assert_wholly_one_hosts(hub, content)


@pytest.mark.parametrize("seed_of_the_next", [1, 2])
def test_a_host_that_died_before_the_mark_does_not_block_the_key(
    make_bucket_host: MakeBucketHost, hub: HubProcess, seed_of_the_next: int
) -> None:
    name = entries.module(1)
    content = entries.files(name, seed=seed_of_the_next)
    with make_bucket_host("a") as host_a:
        hub.wait_for_requests(_BATCH, 1)  # whether it may write
        hub.add_fault(r"POST /api/buckets/alice/shared/batch", kind="stall", skip=1, times=1)
        entries.write(host_a.cache, name, entries.files(name, seed=1))
        hub.wait_for_requests(_BATCH, 3)
        workers = children(host_a.pid)
        host_a.kill()
        # Until then its last request would go on as soon as the fault is over.
        eventually(lambda: all(map(is_gone, workers)), "its workers to end with it")
    hub.clear_faults()
    with make_bucket_host("b") as host_b:
        entries.write(host_b.cache, name, content)
        flush(host_b)
        assert entries.shared(in_bucket(hub, name)) == content
    with host_a:
        flush(host_a)
        assert host_a.journal_is_empty()
    assert entries.shared(in_bucket(hub, name)) == content


def test_a_restarted_host_completes_its_own_half(make_bucket_host: MakeBucketHost, hub: HubProcess) -> None:
    name = entries.module(1)
    with make_bucket_host("a") as host:
        hub.wait_for_requests(_BATCH, 1)
        hub.add_fault(r"POST /api/buckets/alice/shared/batch", kind="stall", skip=1, times=1)
        entries.write(host.cache, name, entries.files(name))
        hub.wait_for_requests(_BATCH, 3)
        host.kill()
        assert "model.done" not in in_bucket(hub, name)
        hub.clear_faults()
        host.start()
        flush(host)
    assert entries.shared(in_bucket(hub, name)) == entries.files(name)


def test_a_late_file_joins_its_entry(make_bucket_host: MakeBucketHost, hub: HubProcess) -> None:
    name = entries.module(1)
    with make_bucket_host("a") as host:
        folder = entries.write(host.cache, name, entries.files(name))
        flush(host)
        (folder / "wrapped_neff.hlo").write_bytes(b"\0late")
        flush(host)
    found = in_bucket(hub, name)
    assert found["wrapped_neff.hlo"] == b"\0late"
    assert set(json.loads(found["neffd.json"])["files"]) == set(entries.shared(found))


def test_a_torn_entry_is_refused_and_mended_by_who_compiles_it(
    make_bucket_host: MakeBucketHost, hub: HubProcess
) -> None:
    name = entries.module(1)
    with make_bucket_host("a") as host_a:
        entries.write(host_a.cache, name, entries.files(name, seed=1))
        flush(host_a)
    hub.seed_bucket(BUCKET, {f"{name}/model.neff": entries.neff_bytes(2)})
    with make_bucket_host("b") as host_b:
        eventually(lambda: fetch(host_b, name) == {str(name): "refused"}, "the refusal")
        assert entries.read(host_b.cache, name) == {}
        assert host_b.counter("neffd_refused", "remote=hub,reason=digest-mismatch") == 1
        entries.write(host_b.cache, name, entries.files(name, seed=3))
        flush(host_b)
    assert entries.shared(in_bucket(hub, name)) == entries.files(name, seed=3)


def test_a_stalled_download_is_given_up_and_comes_later(make_bucket_host: MakeBucketHost, hub: HubProcess) -> None:
    name = entries.module(1)
    with make_bucket_host("a") as host_a:
        entries.write(host_a.cache, name, entries.files(name))
        flush(host_a)
    with make_bucket_host("b", overrides={"fetch": {"stall_s": 1}}) as host_b:
        hub.add_fault(r"GET /xorb-data/", kind="stall", skip=1, times=None)  # the first is of neffd.json
        eventually(lambda: fetch(host_b, name) == {str(name): "remote-unavailable"}, "the end of patience")
        eventually(lambda: "stalled: no byte in 1 s" in host_b.log, "the reason")
        hub.clear_faults()
        fetch_all(host_b, name)
        assert entries.read(host_b.cache, name) == entries.files(name)


async def test_an_upload_in_which_nothing_moves_comes_to_an_end(hub: HubProcess, tmp_path: Path) -> None:
    hub.seed_bucket(BUCKET, {}, private=True)
    (tmp_path / "file").write_bytes(entries.neff_bytes(1))
    hub.add_fault(r"PUT /xorb-uploads/", kind="stall", times=None)
    worker = HubWorker(tmp_path / "home", hub.endpoint, stall_s=3.0)
    work: dict[str, Any] = {"first": [["file", str(tmp_path / "file")]], "delete": [], "last": [["mark", {"text": ""}]]}
    try:
        with pytest.raises(RemoteUnavailable, match="stalled"):
            await worker.call("bucket-write", token=hub.token("alice"), bucket=BUCKET, **work)
    finally:
        await worker.close()
    assert hub.read_bucket(BUCKET) == {}


def test_one_that_fails_does_not_spoil_what_comes_with_it(make_bucket_host: MakeBucketHost, hub: HubProcess) -> None:
    names = [entries.module(number) for number in range(3)]
    with make_bucket_host("a") as host_a:
        for number, name in enumerate(names):
            entries.write(host_a.cache, name, entries.files(name, seed=number))
        flush(host_a)
    with make_bucket_host("b") as host_b:
        unknown = entries.module(9)
        eventually(lambda: fetch(host_b, unknown) == {str(unknown): "not-on-remotes"}, "a first listing")
        hub.add_fault(r"GET /v2/reconstructions/", status=400, skip=3, times=1)  # the first three are of neffd.json
        told = [*fetch(host_b, *names).values()]
        assert told.count("ready") >= 2, "the one itself, where it came alone, may have failed"
        assert hub.faults()[0]["times"] == 0
        eventually(lambda: set(fetch(host_b, *names).values()) == {"ready"}, "nor is it spoilt for the next who asks")


def test_a_public_bucket_receives_nothing(make_bucket_host: MakeBucketHost, hub: HubProcess) -> None:
    hub.seed_bucket("alice/open", {}, private=False)
    name = entries.module(1)
    with make_bucket_host("a", remote={"url": "hf://buckets/alice/open"}) as host:
        entries.write(host.cache, name, entries.files(name))
        answer = host.ask("flush", timeout_s=30)[-1]
        assert answer["parked"] == [{"name": str(name), "remote": "hub", "reason": "public-repo"}]
    assert hub.read_bucket("alice/open") == {}


def test_a_read_token_reads_and_pushes_nothing(make_bucket_host: MakeBucketHost, hub: HubProcess) -> None:
    theirs, mine = entries.module(1), entries.module(2)
    with make_bucket_host("a") as host_a:
        entries.write(host_a.cache, theirs, entries.files(theirs))
        flush(host_a)
    with make_bucket_host("b", role="read") as host_b:
        fetch_all(host_b, theirs)
        entries.write(host_b.cache, mine, entries.files(mine))
        assert host_b.ask("flush", timeout_s=2)[-1]["pending"] == 1
        eventually(lambda: host_b.status()["remotes"][0]["reason"] == "no-write-access", "it is found out")
        assert host_b.status()["remotes"][0]["can_write"] is False
    assert in_bucket(hub, mine) == {}


def test_without_a_token_a_private_bucket_is_not_found(make_bucket_host: MakeBucketHost) -> None:
    name = entries.module(1)
    with make_bucket_host("a", role=None, environ={"HF_HOME": "/nonexistent"}) as host:
        assert fetch(host, name) == {str(name): "remote-unavailable"}
        eventually(lambda: host.status()["remotes"][0]["reason"] == "bucket-not-found", "the reason")
