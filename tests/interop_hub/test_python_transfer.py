"""huggingface_hub moving contents: Xet, plain LFS, ranges, snapshots, short-lived tokens."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from tests.hub import HubProcess
from tests.hub.xet_xorb import GROUPED_LZ4, LZ4, RAW
from tests.interop_hub.client import ClientError, PythonClient, content, file_object
from tests.interop_hub.conftest import read_tree, write_tree

pytestmark = pytest.mark.interop

CONTENT = "GET /content/{store}/{key}"
LFS_BATCH = "POST /{namespace}/{name}.git/info/lfs/objects/batch"
LFS_PUT = "PUT /lfs/{oid}/{size}"
LFS_PART = "PUT /lfs-parts/{upload}/{number}"
SHARD = "POST /v2/shards"


def noise(seed: int, size_bytes: int) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


def weights(seed: int, count: int) -> bytes:
    generator = random.Random(seed)
    return struct.pack(f"<{count}f", *(generator.gauss(0, 1) for _ in range(count)))


def download(client: PythonClient, repo: str, path: str, **arguments: str) -> Path:
    return Path(client.call("hf_hub_download", repo_id=repo, filename=path, **arguments))


def test_snapshot_holds_the_bytes_that_were_uploaded(repo: str, client: PythonClient, tmp_path: Path) -> None:
    files = {
        "a/small.txt": b"text",
        "a/empty": b"",
        "b/binary.bin": noise(10, 3_000_000),
        "b/repetitive.bin": b"0123456789abcdef" * 50_000,
        "b/weights.bin": weights(10, 100_000),
        "c/same.bin": noise(10, 3_000_000),
    }
    client.call("upload_folder", repo_id=repo, folder_path=str(write_tree(tmp_path, files)))
    local = Path(client.call("snapshot_download", repo_id=repo))
    downloaded = read_tree(local)
    del downloaded[".gitattributes"]
    assert downloaded == files


@pytest.mark.parametrize(
    ("data", "scheme"),
    [(noise(11, 200_000), RAW), (b"the same over and over, " * 30_000, LZ4), (weights(11, 100_000), GROUPED_LZ4)],
    ids=["raw", "lz4", "grouped"],
)
def test_plain_readers_get_what_xet_wrote(
    repo: str, hub: HubProcess, client: PythonClient, lfs_client: PythonClient, data: bytes, scheme: int
) -> None:
    known = xorbs(hub)
    client.call("upload_file", repo_id=repo, path_in_repo="x.bin", path_or_fileobj=content(data))
    assert hub.counters()["requests"][SHARD] == 1
    [written] = xorbs(hub) - known
    # The client chose the compression that this test is about.
    assert written.read_bytes()[4] == scheme
    assert download(lfs_client, repo, "x.bin").read_bytes() == data


def xorbs(hub: HubProcess) -> set[Path]:
    return set((hub.root / "xet" / "xorbs").glob("*/*"))


def test_upload_without_xet_in_one_piece(repo: str, hub: HubProcess, lfs_client: PythonClient) -> None:
    data = noise(12, 300_000)
    lfs_client.call("upload_file", repo_id=repo, path_in_repo="x.bin", path_or_fileobj=content(data))
    lfs_client.call("upload_file", repo_id=repo, path_in_repo="again.bin", path_or_fileobj=content(data))
    requests = hub.counters()["requests"]
    assert (requests[LFS_BATCH], requests[LFS_PUT], requests.get(SHARD)) == (2, 1, None)
    assert requests["POST /{namespace}/{name}.git/info/lfs/verify"] == 1
    assert download(lfs_client, repo, "again.bin").read_bytes() == data


def test_upload_without_xet_in_parts(repo: str, hub: HubProcess, lfs_client: PythonClient) -> None:
    hub.set(lfs_part_bytes=100_000)
    data = noise(13, 250_001)
    lfs_client.call("upload_file", repo_id=repo, path_in_repo="x.bin", path_or_fileobj=content(data))
    requests = hub.counters()["requests"]
    assert (requests[LFS_PART], requests.get(LFS_PUT)) == (3, None)
    assert hub.read_files(repo)["x.bin"] == data


def test_open_files_go_by_lfs_even_with_xet(repo: str, hub: HubProcess, client: PythonClient) -> None:
    data = noise(14, 50_000)
    client.call("upload_file", repo_id=repo, path_in_repo="x.bin", path_or_fileobj=file_object(data))
    assert hub.counters()["requests"][LFS_PUT] == 1
    assert download(client, repo, "x.bin").read_bytes() == data


@pytest.mark.parametrize("grants", [True, False])
def test_xorbs_go_up_under_grants_or_directly(repo: str, hub: HubProcess, client: PythonClient, grants: bool) -> None:
    hub.set(grants=grants)
    data = noise(15 + grants, 400_000)
    client.call("upload_file", repo_id=repo, path_in_repo="x.bin", path_or_fileobj=content(data))
    requests = hub.counters()["requests"]
    assert ("PUT /xorb-uploads/{grant}" in requests) is grants
    assert ("POST /v1/xorbs/default/{hash}" in requests) is not grants
    assert download(client, repo, "x.bin").read_bytes() == data


def test_known_content_is_not_sent_twice(repo: str, hub: HubProcess, client: PythonClient) -> None:
    data = noise(17, 400_000)
    client.call("upload_file", repo_id=repo, path_in_repo="x.bin", path_or_fileobj=content(data))
    sent_once = hub.counters()["bytes_in"]
    client.call("upload_file", repo_id=repo, path_in_repo="y.bin", path_or_fileobj=content(data))
    assert hub.counters()["bytes_in"] - sent_once < len(data) / 4
    assert hub.read_files(repo)["y.bin"] == data


def test_seeded_xet_files_can_be_read_by_hf_xet(repo: str, hub: HubProcess, client: PythonClient) -> None:
    data = noise(18, 1_000_000)
    hub.seed_files(repo, {"x.bin": data}, xet=True)
    assert download(client, repo, "x.bin").read_bytes() == data
    assert CONTENT not in hub.counters()["requests"]


def test_seeded_plain_files_come_by_redirect(repo: str, hub: HubProcess, client: PythonClient) -> None:
    data = noise(19, 100_000)
    hub.seed_files(repo, {"x.bin": data})
    assert download(client, repo, "x.bin").read_bytes() == data
    assert hub.counters()["requests"][CONTENT] == 1


def test_download_from_a_revision(repo: str, hub: HubProcess, client: PythonClient) -> None:
    first = hub.seed_files(repo, {"a.txt": b"old"})
    hub.seed_files(repo, {"a.txt": b"new"})
    assert download(client, repo, "a.txt", revision=first).read_bytes() == b"old"
    assert download(client, repo, "a.txt").read_bytes() == b"new"


def test_missing_file_is_told_with_its_commit(repo: str, hub: HubProcess, client: PythonClient) -> None:
    with pytest.raises(ClientError) as caught:
        download(client, repo, "missing")
    assert caught.value.error == "RemoteEntryNotFoundError"
    assert client.call("file_exists", repo_id=repo, filename="missing") is False
    assert client.call("file_exists", repo_id=repo, filename=".gitattributes") is True
    # The client marks the absence under the commit that it was told.
    cache = client.home / "hub" / f"models--{repo.replace('/', '--')}"
    assert (cache / ".no_exist" / hub.head(repo) / "missing").exists()


def test_cut_download_is_resumed_with_a_range(repo: str, hub: HubProcess, lfs_client: PythonClient) -> None:
    data = noise(20, 1_000_000) * 12
    hub.seed_files(repo, {"x.bin": data})
    hub.add_fault("GET /content/", kind="truncate", after_bytes=11_000_000)
    assert download(lfs_client, repo, "x.bin").read_bytes() == data
    counters = hub.counters()
    assert counters["requests"][CONTENT] == 2
    # The client keeps what came in whole chunks of 10 MiB and asks for the rest.
    assert counters["bytes_out"] == 11_000_000 + len(data) - 10 * 1024 * 1024


def test_stalled_download_is_tried_again(repo: str, hub: HubProcess, lfs_client: PythonClient) -> None:
    data = noise(26, 500_000)
    hub.seed_files(repo, {"x.bin": data})
    hub.add_fault("GET /content/", kind="stall-body", after_bytes=300_000)
    assert download(lfs_client, repo, "x.bin").read_bytes() == data
    assert hub.counters()["requests"][CONTENT] == 2


def test_reset_before_the_answer_fails_the_download(repo: str, hub: HubProcess, lfs_client: PythonClient) -> None:
    hub.seed_files(repo, {"x.bin": noise(21, 300_000)})
    hub.add_fault("GET /content/", kind="reset")
    with pytest.raises(ClientError, match="Connection reset by peer"):
        download(lfs_client, repo, "x.bin")
    assert download(lfs_client, repo, "x.bin").read_bytes() == noise(21, 300_000)


def test_expired_xet_tokens_are_renewed(repo: str, hub: HubProcess, client: PythonClient) -> None:
    hub.set(xet_token_ttl_s=20)
    for number in range(2):
        hub.seed_files(repo, {f"{number}.bin": noise(22 + number, 100_000)}, xet=True)
    for number in range(2):
        # hf_xet renews what ends within 30 s, so each download needs a token of its own.
        assert download(client, repo, f"{number}.bin").read_bytes() == noise(22 + number, 100_000)
    route = "GET /api/{type}/{namespace}/{name}/xet-read-token/{revision}"
    assert hub.counters()["requests"][route] >= 2


def test_server_without_cas_serves_plain_lfs(repo: str, hub: HubProcess, client: PythonClient) -> None:
    hub.seed_files(repo, {"x.bin": noise(24, 100_000)}, xet=True)
    hub.set(cas="none")
    [entry] = client.call("get_paths_info", repo_id=repo, paths=["x.bin"])
    assert entry["xet_hash"] is None
    assert download(client, repo, "x.bin").read_bytes() == noise(24, 100_000)
    assert hub.counters()["requests"][CONTENT] == 1


def test_private_files_need_a_token(hub: HubProcess, client: PythonClient) -> None:
    repo, data = "alice/private-files", noise(25, 100_000)
    hub.seed_files(repo, {"x.bin": data}, private=True, xet=True)
    assert download(client, repo, "x.bin").read_bytes() == data
    url = f"{hub.endpoint}/{repo}/resolve/main/x.bin"
    with pytest.raises(ClientError) as caught:
        client.call("get_hf_file_metadata", as_token=False, url=url)
    assert (caught.value.error, caught.value.status) == ("RepositoryNotFoundError", 401)
    reader = hub.token("alice", "read")
    again = client.call("hf_hub_download", as_token=reader, repo_id=repo, filename="x.bin", force_download=True)
    assert Path(again).read_bytes() == data
