"""huggingface_hub under quotas and faults: what it retries, and what it reports."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.hub import HubProcess
from tests.interop_hub.client import ClientError, PythonClient, add

pytestmark = pytest.mark.interop

COMMIT = "POST /api/{type}/{namespace}/{name}/commit/{revision}"
TREE = "GET /api/{type}/{namespace}/{name}/tree/{revision}"


def commit(client: PythonClient, repo: str, path: str, **arguments: Any) -> dict[str, Any]:
    arguments = {"commit_message": path, **arguments}
    return dict(client.call("create_commit", repo_id=repo, operations=[add(path, b"x")], **arguments))


@pytest.mark.parametrize("form", ["ratelimit", "retry-after"])
def test_listing_waits_for_the_next_window(repo: str, hub: HubProcess, client: PythonClient, form: str) -> None:
    # Long enough for both to begin in one window, on a busy machine too.
    hub.set(api_quota=1, quota_window_s=4, quota_headers=form)
    assert client.call("list_repo_tree", repo_id=repo)
    started_s = time.monotonic()
    assert client.call("list_repo_tree", repo_id=repo)
    counters = hub.counters()
    assert counters["errors"][TREE] == {"429": 1}
    # t is at least 1 s, and the client adds one.
    assert time.monotonic() - started_s >= 1


def test_calls_without_retry_raise_when_the_quota_is_gone(repo: str, hub: HubProcess, client: PythonClient) -> None:
    hub.set(api_quota=1)
    client.call("repo_info", repo_id=repo)
    with pytest.raises(ClientError) as caught:
        client.call("repo_info", repo_id=repo)
    assert caught.value.status == 429
    # Files count against another quota.
    assert client.call("file_exists", repo_id=repo, filename=".gitattributes")


def test_commit_quota_refuses_the_commit_alone(repo: str, hub: HubProcess, client: PythonClient) -> None:
    hub.set(commit_quota=2, api_quota=1000)
    hub.reset_limits()
    commit(client, repo, "1")
    commit(client, repo, "2")
    with pytest.raises(ClientError, match="exceeded the rate limit for repository commits") as caught:
        commit(client, repo, "3")
    assert caught.value.status == 429
    assert client.call("repo_info", repo_id=repo)["sha"] == hub.head(repo)
    assert len(hub.commits(repo)) == 3


def test_listing_is_retried_after_a_503(repo: str, hub: HubProcess, client: PythonClient) -> None:
    hub.add_fault(r"GET .*/tree/", status=503)
    assert client.call("list_repo_tree", repo_id=repo)
    assert hub.counters()["requests"][TREE] == 2


def test_commit_is_not_retried_after_a_503(repo: str, hub: HubProcess, client: PythonClient) -> None:
    hub.add_fault(r"POST .*/commit/main", status=503, message="come back later", code="Overloaded")
    with pytest.raises(ClientError, match="come back later") as caught:
        commit(client, repo, "a")
    assert caught.value.status == 503
    assert hub.counters()["requests"][COMMIT] == 1
    assert len(hub.commits(repo)) == 1


@pytest.mark.parametrize("options", [{"kind": "reset"}, {"status": 500}, {"status": 504}])
def test_commit_may_land_though_its_answer_is_lost(
    repo: str, hub: HubProcess, client: PythonClient, options: dict[str, Any]
) -> None:
    hub.add_fault(r"POST .*/commit/main", landed=True, **options)
    with pytest.raises(ClientError) as caught:
        commit(client, repo, "a")
    assert caught.value.status == options.get("status")
    assert hub.counters()["requests"][COMMIT] == 1
    assert [landed["title"] for landed in hub.commits(repo)] == ["a", "initial commit"]
    assert hub.faults()[0]["times"] == 0


def test_lost_answer_waits_for_a_commit_that_lands(repo: str, hub: HubProcess, client: PythonClient) -> None:
    hub.add_fault(r"POST .*/commit/main", kind="reset", landed=True)
    with pytest.raises(ClientError) as caught:
        commit(client, repo, "a", parent_commit="0" * 40)
    assert caught.value.status == 412
    assert hub.faults()[0]["times"] == 1


def test_cached_file_is_used_while_the_hub_stalls(repo: str, hub: HubProcess, client: PythonClient) -> None:
    hub.seed_files(repo, {"a.txt": b"text"})
    cached = client.call("hf_hub_download", repo_id=repo, filename="a.txt")
    hub.add_fault("HEAD .*/resolve/", kind="stall", times=None)
    again = client.call("hf_hub_download", repo_id=repo, filename="a.txt")
    assert again == cached


def test_wrong_bytes_of_the_right_size_pass_the_client(repo: str, hub: HubProcess, client: PythonClient) -> None:
    data = b"some text"
    hub.seed_files(repo, {"a.txt": data})
    hub.add_fault("GET .*/resolve/", kind="corrupt", after_bytes=4)
    local = Path(client.call("hf_hub_download", repo_id=repo, filename="a.txt"))
    wrong = local.read_bytes()
    assert wrong != data
    assert (len(wrong), wrong[:4]) == (len(data), b"some")


def test_hf_xet_fails_when_the_cas_is_refused(repo: str, hub: HubProcess, client: PythonClient) -> None:
    hub.add_fault("POST /v2/shards", status=400, message="no", times=None)
    with pytest.raises(ClientError) as caught:
        client.call(
            "create_commit", repo_id=repo, operations=[add("x.bin", bytes(range(256)) * 40)], commit_message="x"
        )
    assert caught.value.status is None
    assert len(hub.commits(repo)) == 1
