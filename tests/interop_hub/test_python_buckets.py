"""huggingface_hub and hf_xet on buckets, and four of their processes at once."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest

from tests.hub import HubProcess
from tests.interop_hub.client import Call, ClientError, PythonClient, add, content, pair
from tests.interop_hub.conftest import read_tree, write_tree

pytestmark = pytest.mark.interop

BATCH = "POST /api/buckets/{namespace}/{name}/batch"


def put(client: PythonClient, bucket: str, files: dict[str, bytes]) -> None:
    client.call("batch_bucket_files", bucket_id=bucket, add=[pair(content(data), path) for path, data in files.items()])


def paths(client: PythonClient, bucket: str, **arguments: Any) -> list[str]:
    return [entry["path"] for entry in client.call("list_bucket_tree", bucket_id=bucket, **arguments)]


def test_bucket_life_cycle(bucket: str, hub: HubProcess, client: PythonClient) -> None:
    with pytest.raises(ClientError) as caught:
        client.call("create_bucket", bucket_id=bucket)
    assert caught.value.status == 409
    client.call("create_bucket", bucket_id=bucket, exist_ok=True)
    put(client, bucket, {"a": b"12345", "b": b"678"})
    info = client.call("bucket_info", bucket_id=bucket)
    assert (info["id"], info["private"], info["size"], info["total_files"]) == (bucket, False, 8, 2)
    assert bucket in [item["id"] for item in client.call("list_buckets")]
    client.call("delete_bucket", bucket_id=bucket)
    with pytest.raises(ClientError) as caught:
        client.call("bucket_info", bucket_id=bucket)
    assert caught.value.error == "BucketNotFoundError"


def test_files_go_up_and_come_down(bucket: str, hub: HubProcess, client: PythonClient, tmp_path: Path) -> None:
    files = {
        "a/small": b"12345",
        "a/empty": b"",
        "b/large.neff": random.Random(30).randbytes(2_000_000),
        "b/repetitive": b"abcd" * 100_000,
    }
    put(client, bucket, files)
    assert hub.read_bucket(bucket) == files
    targets = [pair(path, str(tmp_path / path)) for path in files]
    client.call("download_bucket_files", bucket_id=bucket, files=targets)
    assert read_tree(tmp_path) == files


def test_empty_file_has_the_zero_hash(bucket: str, client: PythonClient) -> None:
    put(client, bucket, {"empty": b""})
    [entry] = client.call("list_bucket_tree", bucket_id=bucket)
    assert (entry["xet_hash"], entry["size"]) == ("0" * 64, 0)


def test_listing_is_flat_or_deep_and_by_lexical_prefix(bucket: str, hub: HubProcess, client: PythonClient) -> None:
    hub.seed_bucket(bucket, {"logs/1": b"1", "logs/sub/2": b"2", "logs.json": b"3", "other": b"4"})
    everything = ["logs.json", "logs/1", "logs/sub/2", "other"]
    assert paths(client, bucket) == everything
    assert paths(client, bucket, recursive=True) == everything
    assert paths(client, bucket, recursive=False) == ["logs", "logs.json", "other"]
    assert paths(client, bucket, prefix="logs/", recursive=False) == ["logs/1", "logs/sub"]
    assert paths(client, bucket, prefix="logs", recursive=True) == everything[:3]


def test_large_listing_comes_in_pages(bucket: str, hub: HubProcess, client: PythonClient) -> None:
    hub.seed_bucket(bucket, {f"{number:04d}": b"same" for number in range(1500)})
    assert paths(client, bucket) == [f"{number:04d}" for number in range(1500)]
    assert hub.counters()["requests"]["GET /api/buckets/{namespace}/{name}/tree"] == 2


def test_batch_fails_in_part(bucket: str, hub: HubProcess, client: PythonClient) -> None:
    with pytest.raises(ClientError) as caught:
        put(client, bucket, {"good": b"12345", "bad//path": b"678"})
    assert caught.value.error == "BucketBatchError"
    assert [failure["path"] for failure in caught.value.failures] == ["bad//path"]
    assert hub.read_bucket(bucket) == {"good": b"12345"}


def test_overwrite_copy_and_delete(bucket: str, hub: HubProcess, client: PythonClient) -> None:
    put(client, bucket, {"a": b"old", "gone": b"x"})
    put(client, bucket, {"a": b"new"})
    [entry] = client.call("get_bucket_paths_info", bucket_id=bucket, paths=["a", "missing"])
    copy = {"$tuple": ["bucket", bucket, entry["xet_hash"], "copy"]}
    client.call("batch_bucket_files", bucket_id=bucket, copy=[copy], delete=["gone", "never was there"])
    assert hub.read_bucket(bucket) == {"a": b"new", "copy": b"new"}


def test_files_of_a_repo_are_copied_into_a_bucket(
    bucket: str, repo: str, hub: HubProcess, client: PythonClient
) -> None:
    data = random.Random(31).randbytes(100_000)
    hub.seed_files(repo, {"x.bin": data}, xet=True)
    client.call("copy_files", source=f"hf://{repo}/x.bin", destination=f"hf://buckets/{bucket}/y.bin")
    assert hub.read_bucket(bucket) == {"y.bin": data}


def test_sync_both_ways(bucket: str, hub: HubProcess, client: PythonClient, tmp_path: Path) -> None:
    files = {"a/1": b"one", "2": random.Random(32).randbytes(100_000)}
    source = write_tree(tmp_path / "source", files)
    client.call("sync_bucket", source=str(source), dest=f"hf://buckets/{bucket}")
    assert hub.read_bucket(bucket) == files
    target = tmp_path / "target"
    client.call("sync_bucket", source=f"hf://buckets/{bucket}", dest=str(target))
    assert read_tree(target) == files
    hub.reset_counters()
    client.call("sync_bucket", source=str(source), dest=f"hf://buckets/{bucket}")
    assert BATCH not in hub.counters()["requests"]


def test_private_bucket_is_hidden(hub: HubProcess, client: PythonClient) -> None:
    client.call("create_bucket", bucket_id="alice/hidden", private=True, exist_ok=True)
    reader, other = hub.token("alice", "read"), hub.token("bob", "write")
    calls = [Call("bucket_info", {"bucket_id": "alice/hidden"}, token) for token in (False, other, reader)]
    anonymous, foreign, own = client.parallel(calls)
    assert (anonymous.error, anonymous.status) == ("BucketNotFoundError", 401)
    assert (foreign.error, foreign.status) == ("BucketNotFoundError", 404)
    assert own["private"] is True
    listed = client.call("list_buckets", as_token=other, namespace="alice")
    assert "alice/hidden" not in [item["id"] for item in listed]
    with pytest.raises(ClientError):
        client.call("batch_bucket_files", as_token=reader, bucket_id="alice/hidden", add=[pair(content(b"1"), "a")])
    assert hub.read_bucket("alice/hidden") == {}


def commit_all(clients: list[PythonClient], calls: list[Call]) -> None:
    """Send one commit from each client at once; those that lose a race are sent again."""
    pending = list(zip(clients, calls, strict=True))
    for _ in range(20):
        for client, call in pending:
            client.send(call)
        outcomes = [(client, call, client.receive()[0]) for client, call in pending]
        lost = [(client, call, outcome) for client, call, outcome in outcomes if isinstance(outcome, ClientError)]
        assert {outcome.status for _, _, outcome in lost} <= {409}
        pending = [(client, call) for client, call, _ in lost]
        if not pending:
            return
    raise AssertionError("some commits never landed")


def test_four_processes_share_a_bucket_and_a_repo(
    bucket: str, repo: str, hub: HubProcess, client: PythonClient, tmp_path: Path
) -> None:
    shares = [
        {f"{who}/{item}": random.Random(100 * who + item).randbytes(60_000) for item in range(5)} for who in range(4)
    ]
    expected = {path: data for share in shares for path, data in share.items()}
    with contextlib.ExitStack() as stack:
        clients = [PythonClient(hub.endpoint, hub.token("alice"), tmp_path / f"home-{who}") for who in range(4)]
        for each in clients:
            stack.callback(each.close)
        for each in clients:
            each.wait_ready()
        for each, share in zip(clients, shares, strict=True):
            pairs = [pair(content(data), path) for path, data in share.items()]
            each.send(Call("batch_bucket_files", {"bucket_id": bucket, "add": pairs}))
        assert [each.receive() for each in clients] == [[None]] * 4
        assert hub.read_bucket(bucket) == expected
        operations = [[add(path, data) for path, data in share.items()] for share in shares]
        commit_all(
            clients,
            [
                Call("create_commit", {"repo_id": repo, "operations": mine, "commit_message": str(who)})
                for who, mine in enumerate(operations)
            ],
        )
        folder = tmp_path / "down"
        targets = [pair(path, str(folder / path)) for path in expected]
        clients[0].call("download_bucket_files", bucket_id=bucket, files=targets)
    assert read_tree(folder) == expected
    committed = hub.read_files(repo)
    del committed[".gitattributes"]
    assert committed == expected
    assert len(hub.commits(repo)) == 5
