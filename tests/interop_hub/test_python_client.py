"""huggingface_hub on repos: account, life cycle, access, commits, listing."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from tests.hub import HubProcess
from tests.hub.access import Role
from tests.hub.gitobjects import blob_id
from tests.interop_hub.client import Call, ClientError, PythonClient, add, delete
from tests.interop_hub.conftest import write_tree

pytestmark = pytest.mark.interop

COMMIT = "POST /api/{type}/{namespace}/{name}/commit/{revision}"
TREE = "GET /api/{type}/{namespace}/{name}/tree/{revision}"
MOVED = "The branch was updated since you opened this page"


def commit_call(repo: str, path: str, data: bytes, **arguments: Any) -> Call:
    return Call(
        "create_commit", {"repo_id": repo, "operations": [add(path, data)], "commit_message": path, **arguments}
    )


def upload(client: PythonClient, repo: str, path: str, data: bytes, **arguments: Any) -> dict[str, Any]:
    """Commit one file and return what the client says of the commit."""
    outcome = client.parallel([commit_call(repo, path, data, **arguments)])[0]
    if isinstance(outcome, ClientError):
        raise outcome
    return dict(outcome)


def paths(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["path"] for entry in entries]


def test_whoami_tells_user_and_role(hub: HubProcess, client: PythonClient) -> None:
    assert client.call("whoami")["name"] == "alice"
    as_reader = client.call("whoami", as_token=hub.token("alice", "read"))
    assert as_reader["auth"]["accessToken"]["role"] == "read"


def test_unknown_token_is_refused_and_not_taken_for_a_missing_repo(repo: str, client: PythonClient) -> None:
    with pytest.raises(ClientError) as caught:
        client.call("repo_info", repo_id=repo, as_token="hf_unknown")
    assert (caught.value.error, caught.value.status) == ("HfHubHTTPError", 401)


def test_create_repo_again_is_a_conflict_unless_it_may_exist(repo: str, hub: HubProcess, client: PythonClient) -> None:
    assert client.call("create_repo", repo_id=repo, exist_ok=True) == f"{hub.endpoint}/{repo}"
    with pytest.raises(ClientError) as caught:
        client.call("create_repo", repo_id=repo)
    assert caught.value.status == 409


def test_new_repo_holds_only_its_attributes(repo: str, client: PythonClient) -> None:
    [entry] = client.call("list_repo_tree", repo_id=repo, recursive=True)
    assert (entry["path"], entry["size"]) == (".gitattributes", 1519)
    [commit] = client.call("list_repo_commits", repo_id=repo)
    assert commit["title"] == "initial commit"


def test_create_under_foreign_namespace_is_refused(client: PythonClient) -> None:
    with pytest.raises(ClientError) as caught:
        client.call("create_repo", repo_id="bob/mine")
    assert caught.value.status == 403


CALLERS: dict[str, tuple[str, Role] | None] = {
    "anonymous": None,
    "owner": ("alice", "write"),
    "reader": ("alice", "read"),
    "other": ("bob", "write"),
}
NOT_FOUND_401, NOT_FOUND_404 = ("RepositoryNotFoundError", 401), ("RepositoryNotFoundError", 404)
FORBIDDEN = ("HfHubHTTPError", 403)
ACCESS = [
    ("anonymous", "public", None, ("HfHubHTTPError", 401)),
    ("owner", "public", None, None),
    ("reader", "public", None, FORBIDDEN),
    ("other", "public", None, FORBIDDEN),
    ("anonymous", "private", NOT_FOUND_401, NOT_FOUND_401),
    ("owner", "private", None, None),
    ("reader", "private", None, FORBIDDEN),
    ("other", "private", NOT_FOUND_404, NOT_FOUND_404),
    ("anonymous", "missing", NOT_FOUND_401, NOT_FOUND_401),
    ("owner", "missing", NOT_FOUND_404, NOT_FOUND_404),
]


@pytest.mark.parametrize(("caller", "kind", "on_read", "on_write"), ACCESS)
def test_access_rules(
    hub: HubProcess,
    client: PythonClient,
    caller: str,
    kind: str,
    on_read: tuple[str, int] | None,
    on_write: tuple[str, int] | None,
) -> None:
    repo = f"alice/access-{kind}"
    if kind != "missing":
        hub.seed_files(repo, {"file.txt": b"text"}, private=kind == "private")
    account = CALLERS[caller]
    token = hub.token(*account) if account else False
    read, write = client.parallel(
        [
            Call("repo_info", {"repo_id": repo}, token),
            Call("create_branch", {"repo_id": repo, "branch": f"by-{caller}", "exist_ok": True}, token),
        ]
    )
    assert _refusal(read) == on_read
    assert _refusal(write) == on_write


def _refusal(outcome: Any) -> tuple[str, int | None] | None:
    return (outcome.error, outcome.status) if isinstance(outcome, ClientError) else None


def test_uploaded_folder_is_listed_with_true_hashes(repo: str, client: PythonClient, tmp_path: Path) -> None:
    files = {
        "neuronxcc-2/MODULE_1/model.hlo_module.pb": random.Random(1).randbytes(300),
        "neuronxcc-2/MODULE_1/model.neff": random.Random(2).randbytes(300_000),
        "neuronxcc-2/MODULE_1/compile_flags.json": b'["-O1"]',
        "neuronxcc-2/MODULE_1/model.done": b"",
        "neuronxcc-2/MODULE_2/ünïcode name #1.txt": "wörds".encode(),
    }
    client.call("upload_folder", repo_id=repo, folder_path=str(write_tree(tmp_path, files)))
    entries = {entry["path"]: entry for entry in client.call("list_repo_tree", repo_id=repo, recursive=True)}
    folders = {"neuronxcc-2", "neuronxcc-2/MODULE_1", "neuronxcc-2/MODULE_2"}
    assert set(entries) == {*files, *folders, ".gitattributes"}
    for path, data in files.items():
        entry = entries[path]
        assert entry["size"] == len(data)
        if path.endswith((".pb", ".neff")):
            assert entry["lfs"]["sha256"] == hashlib.sha256(data).hexdigest()
            assert entry["xet_hash"]
        else:
            assert (entry["blob_id"], entry["lfs"]) == (blob_id(data), None)


def test_unchanged_files_make_no_commit(repo: str, hub: HubProcess, client: PythonClient) -> None:
    binary = random.Random(3).randbytes(5000)
    operations = [add("a.txt", b"text"), add("b.bin", binary)]
    first = client.call("create_commit", repo_id=repo, operations=operations, commit_message="first")
    again = client.call("create_commit", repo_id=repo, operations=operations, commit_message="again")
    assert again["oid"] == first["oid"]
    assert hub.counters()["requests"][COMMIT] == 1


def test_commit_on_a_stale_parent_is_refused(repo: str, hub: HubProcess, client: PythonClient) -> None:
    parent = hub.head(repo)
    landed = upload(client, repo, "a.txt", b"1", parent_commit=parent)["oid"]
    with pytest.raises(ClientError, match=MOVED) as caught:
        upload(client, repo, "b.txt", b"2", parent_commit=parent)
    assert caught.value.status == 412
    assert hub.head(repo) == landed
    # A prefix names the parent too.
    upload(client, repo, "b.txt", b"2", parent_commit=landed[:7])
    assert set(hub.read_files(repo)) == {".gitattributes", "a.txt", "b.txt"}


def test_of_eight_commits_on_one_parent_one_wins(repo: str, hub: HubProcess, client: PythonClient) -> None:
    parent = hub.head(repo)
    outcomes = client.parallel([commit_call(repo, f"{number}.txt", b"x", parent_commit=parent) for number in range(8)])
    winners = [outcome for outcome in outcomes if not isinstance(outcome, ClientError)]
    assert len(winners) == 1
    assert {outcome.status for outcome in outcomes if isinstance(outcome, ClientError)} <= {409, 412}
    assert [commit["id"] for commit in hub.commits(repo)] == [winners[0]["oid"], parent]


def test_second_commit_is_refused_while_one_is_under_way(repo: str, hub: HubProcess, client: PythonClient) -> None:
    hub.set(commit_s=2)
    outcomes = client.parallel([commit_call(repo, f"{number}.txt", b"x") for number in range(2)])
    [refused] = [outcome for outcome in outcomes if isinstance(outcome, ClientError)]
    assert refused.status == 409
    assert "Another commit operation is in progress" in refused.message
    assert len(hub.commits(repo)) == 2


def test_commits_without_parent_build_on_the_head(repo: str, hub: HubProcess, client: PythonClient) -> None:
    upload(client, repo, "a.txt", b"1")
    upload(client, repo, "a.txt", b"2")
    upload(client, repo, "b.txt", b"3")
    files = hub.read_files(repo)
    assert (files["a.txt"], files["b.txt"]) == (b"2", b"3")


def test_large_tree_is_listed_in_pages(repo: str, hub: HubProcess, client: PythonClient) -> None:
    hub.seed_files(repo, {f"folder/{number:04d}": b"%d" % number for number in range(2500)})
    listed = paths(client.call("list_repo_tree", repo_id=repo, recursive=True))
    assert len(listed) == len(set(listed)) == 2502
    assert hub.counters()["requests"][TREE] == 3
    inside = client.call("list_repo_tree", repo_id=repo, path_in_repo="folder", recursive=False)
    assert paths(inside) == [f"folder/{number:04d}" for number in range(2500)]


def test_expanded_listing_names_the_commit_that_changed_each_path(repo: str, client: PythonClient) -> None:
    first = upload(client, repo, "x/a.txt", b"1")["oid"]
    second = upload(client, repo, "x/b.txt", b"2")["oid"]
    entries = client.call("list_repo_tree", repo_id=repo, recursive=True, expand=True)
    last = {entry["path"]: entry["last_commit"]["oid"] for entry in entries}
    assert (last["x/a.txt"], last["x/b.txt"], last["x"]) == (first, second, second)


def test_history_is_listed_in_pages(repo: str, hub: HubProcess, client: PythonClient) -> None:
    for number in range(60):
        hub.seed_files(repo, {"file": b"%d" % number}, title=f"number {number}")
    commits = client.call("list_repo_commits", repo_id=repo)
    assert [commit["title"] for commit in commits][:2] == ["number 59", "number 58"]
    assert len(commits) == 61
    assert hub.counters()["requests"]["GET /api/{type}/{namespace}/{name}/commits/{revision}"] == 2


def test_paths_info_leaves_out_what_is_missing(repo: str, client: PythonClient) -> None:
    upload(client, repo, "folder/a.txt", b"1")
    found = client.call("get_paths_info", repo_id=repo, paths=["folder/a.txt", "folder", "nothing"])
    assert paths(found) == ["folder/a.txt", "folder"]


def test_missing_folder_and_revision_have_errors_of_their_own(repo: str, client: PythonClient) -> None:
    outcomes = client.parallel(
        [
            Call("list_repo_tree", {"repo_id": repo, "path_in_repo": "nowhere"}),
            Call("list_repo_tree", {"repo_id": repo, "revision": "nowhere"}),
        ]
    )
    assert [outcome.error for outcome in outcomes] == ["RemoteEntryNotFoundError", "RevisionNotFoundError"]


def test_branches(repo: str, hub: HubProcess, client: PythonClient) -> None:
    client.call("create_branch", repo_id=repo, branch="side/way")
    upload(client, repo, "a.txt", b"1", revision="side/way")
    assert "a.txt" in hub.read_files(repo, revision="side/way")
    assert "a.txt" not in hub.read_files(repo)
    with pytest.raises(ClientError) as caught:
        client.call("create_branch", repo_id=repo, branch="side/way")
    assert caught.value.status == 409
    branches = client.call("list_repo_refs", repo_id=repo)["branches"]
    assert {branch["name"]: branch["target_commit"] for branch in branches} == {
        "main": hub.head(repo),
        "side/way": hub.head(repo, revision="side/way"),
    }
    client.call("delete_branch", repo_id=repo, branch="side/way")
    with pytest.raises(ClientError) as caught:
        client.call("repo_info", repo_id=repo, revision="side/way")
    assert caught.value.error == "RevisionNotFoundError"


def test_super_squash_keeps_the_files_and_drops_the_history(repo: str, hub: HubProcess, client: PythonClient) -> None:
    upload(client, repo, "a.txt", b"1")
    upload(client, repo, "b.txt", b"2")
    before, files = hub.head(repo), hub.read_files(repo)
    client.call("super_squash_history", repo_id=repo, branch="main", commit_message="all in one")
    assert [commit["title"] for commit in hub.commits(repo)] == ["all in one"]
    assert hub.head(repo) != before
    assert hub.read_files(repo) == files


def test_deletions(repo: str, hub: HubProcess, client: PythonClient) -> None:
    hub.seed_files(repo, {"a": b"1", "folder/b": b"2", "folder/c": b"3", "folder-2/d": b"4"})
    client.call("delete_file", repo_id=repo, path_in_repo="a")
    client.call("delete_folder", repo_id=repo, path_in_repo="folder")
    assert set(hub.read_files(repo)) == {".gitattributes", "folder-2/d"}
    with pytest.raises(ClientError, match="A file with this name doesn't exist") as caught:
        client.call("delete_file", repo_id=repo, path_in_repo="a")
    assert caught.value.error == "RemoteEntryNotFoundError"


def test_failed_commit_changes_nothing(repo: str, hub: HubProcess, client: PythonClient) -> None:
    head = hub.head(repo)
    with pytest.raises(ClientError):
        client.call(
            "create_commit",
            repo_id=repo,
            operations=[add("a.txt", b"1"), delete("missing")],
            commit_message="half of it cannot be done",
        )
    assert hub.head(repo) == head


def test_deleted_repo_is_gone(repo: str, client: PythonClient) -> None:
    client.call("delete_repo", repo_id=repo)
    assert client.call("repo_exists", repo_id=repo) is False
    with pytest.raises(ClientError) as caught:
        client.call("delete_repo", repo_id=repo)
    assert caught.value.error == "RepositoryNotFoundError"


def test_copies_need_no_second_upload(repo: str, hub: HubProcess, client: PythonClient) -> None:
    binary = random.Random(4).randbytes(50_000)
    upload(client, repo, "a.bin", binary)
    other = f"{repo}-copy"
    client.call("create_repo", repo_id=other)
    within = {"$copy": "a.bin", "to": "b.bin"}
    client.call("create_commit", repo_id=repo, operations=[within], commit_message="within")
    across = {"$copy": "a.bin", "to": "c.bin", "source": {"src_repo_id": repo, "src_repo_type": "model"}}
    client.call("create_commit", repo_id=other, operations=[across], commit_message="across")
    assert hub.read_files(repo)["b.bin"] == hub.read_files(other)["c.bin"] == binary
    assert hub.counters()["requests"]["POST /v2/shards"] == 1


def test_dataset_repo_is_apart_from_the_model_of_the_same_name(
    repo: str, hub: HubProcess, client: PythonClient, tmp_path: Path
) -> None:
    url = client.call("create_repo", repo_id=repo, repo_type="dataset")
    assert url == f"{hub.endpoint}/datasets/{repo}"
    upload(client, repo, "README.md", b"---\nlicense: mit\n---\n", repo_type="dataset")
    data = random.Random(5).randbytes(20_000)
    upload(client, repo, "data.bin", data, repo_type="dataset")
    local = client.call("hf_hub_download", repo_id=repo, filename="data.bin", repo_type="dataset")
    assert Path(local).read_bytes() == data
    assert set(hub.read_files(repo)) == {".gitattributes"}
    assert hub.counters()["requests"]["POST /api/validate-yaml"] == 1


def test_info_shows_only_what_is_asked_for(repo: str, hub: HubProcess, client: PythonClient) -> None:
    info = client.call("model_info", repo_id=repo, expand=["sha"])
    assert (info["sha"], info["siblings"]) == (hub.head(repo), None)
    full = client.call("model_info", repo_id=repo, files_metadata=True)
    assert [(sibling["rfilename"], sibling["size"]) for sibling in full["siblings"]] == [(".gitattributes", 1519)]
