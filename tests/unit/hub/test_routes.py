"""Answers in detail, where the official clients do not look: headers, ranges, refusals."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import aiohttp
import pytest

from tests.hub import HubServer
from tests.hub.errors import HubError
from tests.hub.gitobjects import blob_id, lfs_pointer
from tests.unit.hub.conftest import BINARY, REPO, SHA256, TEXT


async def commit(
    session: aiohttp.ClientSession, lines: Sequence[dict[str, Any]], branch: str = "main"
) -> tuple[int, dict[str, Any]]:
    body = "\n".join(json.dumps(line) for line in lines)
    headers = {"Content-Type": "application/x-ndjson"}
    async with session.post(f"/api/models/{REPO}/commit/{branch}", data=body, headers=headers) as response:
        return response.status, await response.json()


HEADER = {"key": "header", "value": {"summary": "title", "description": "text"}}


def file_line(path: str, data: bytes) -> dict[str, Any]:
    return {
        "key": "file",
        "value": {"path": path, "content": base64.b64encode(data).decode(), "encoding": "base64"},
    }


async def test_regular_file(hub: HubServer, alice: aiohttp.ClientSession) -> None:
    for method in ("GET", "HEAD"):
        async with alice.request(method, f"/{REPO}/resolve/main/file.txt") as response:
            assert response.status == 200
            assert response.headers["ETag"] == f'"{blob_id(TEXT)}"'
            assert response.headers["X-Repo-Commit"] == hub.head(REPO)
            assert response.headers["Content-Length"] == "10"
            assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert response.headers["X-Request-Id"].startswith("Root=1-")
            assert await response.read() == (TEXT if method == "GET" else b"")


@pytest.mark.parametrize(
    ("asked", "status", "content_range", "body"),
    [
        ("bytes=2-4", 206, "bytes 2-4/10", b"234"),
        ("bytes=7-", 206, "bytes 7-9/10", b"789"),
        ("bytes=-2", 206, "bytes 8-9/10", b"89"),
        ("bytes=5-99", 206, "bytes 5-9/10", b"56789"),
        ("bytes=10-", 416, "bytes */10", b""),
        ("bytes=1-2,4-5", 200, None, TEXT),
    ],
)
async def test_ranges(
    alice: aiohttp.ClientSession, asked: str, status: int, content_range: str | None, body: bytes
) -> None:
    async with alice.get(f"/{REPO}/resolve/main/file.txt", headers={"Range": asked}) as response:
        assert (response.status, response.headers.get("Content-Range")) == (status, content_range)
        assert await response.read() == body


async def test_unchanged_content_is_not_sent(hub: HubServer, alice: aiohttp.ClientSession) -> None:
    for path, etag in (("file.txt", blob_id(TEXT)), ("file.bin", SHA256)):
        for held, status in ((etag, 304), ("0" * 40, 200)):
            headers = {"If-None-Match": f'"{held}"'}
            async with alice.get(f"/{REPO}/resolve/main/{path}", headers=headers) as response:
                assert response.status == status


async def test_lfs_file_redirects_to_the_second_origin(hub: HubServer, alice: aiohttp.ClientSession) -> None:
    async with alice.head(f"/{REPO}/resolve/main/file.bin") as response:
        headers = response.headers
        assert response.status == 302
    assert headers["X-Linked-Size"] == "256"
    assert headers["X-Linked-Etag"] == headers["ETag"] == f'"{SHA256}"'
    assert headers["X-Repo-Commit"] == hub.head(REPO)
    assert "X-Xet-Hash" not in headers
    assert headers["Location"].startswith(hub.cdn)
    async with aiohttp.ClientSession() as anonymous, anonymous.get(headers["Location"]) as response:
        assert await response.read() == BINARY


async def test_xet_file_names_its_hash_and_token_route(hub: HubServer, alice: aiohttp.ClientSession) -> None:
    async with alice.head("/alice/x/resolve/main/file.bin") as response:
        headers = response.headers
    refresh = f"{hub.endpoint}/api/models/alice/x/xet-read-token/{hub.head('alice/x')}"
    assert headers["X-Xet-Refresh-Route"] == refresh
    assert f'<{refresh}>; rel="xet-auth"' in headers["Link"]
    reconstruction = f"{hub.cdn}/v1/reconstructions/{headers['X-Xet-Hash']}"
    assert f'<{reconstruction}>; rel="xet-reconstruction-info"' in headers["Link"]
    accept = {"Accept": "application/vnd.xet-fileinfo+json"}
    async with alice.get("/alice/x/resolve/main/file.bin", headers=accept) as response:
        assert (response.status, response.content_type) == (200, accept["Accept"])
        assert json.loads(await response.read()) == {"hash": headers["X-Xet-Hash"], "size": 256}


async def test_raw_shows_the_pointer(alice: aiohttp.ClientSession) -> None:
    pointer = lfs_pointer(SHA256, 256)
    async with alice.get(f"/{REPO}/raw/main/file.bin") as response:
        assert await response.read() == pointer
        assert response.headers["ETag"] == f'"{blob_id(pointer)}"'


async def test_missing_entry_names_the_commit(hub: HubServer, alice: aiohttp.ClientSession) -> None:
    for url in (f"/{REPO}/resolve/main/none", f"/api/models/{REPO}/tree/main/none"):
        async with alice.get(url) as response:
            assert (response.status, response.headers["X-Error-Code"]) == (404, "EntryNotFound")
            assert response.headers["X-Repo-Commit"] == hub.head(REPO)


async def test_pages_are_linked_with_all_parameters(hub: HubServer, alice: aiohttp.ClientSession) -> None:
    hub.seed_files(REPO, {f"many/a+b {number:02d}": b"x" for number in range(25)})
    url, seen, pages = f"/api/models/{REPO}/tree/main/many?recursive=true&limit=10", [], 0
    while url:
        async with alice.get(url) as response:
            seen += [entry["path"] for entry in await response.json()]
            pages += 1
            link = response.links.get("next")
            url = str(link["url"]) if link else ""
            assert not url or (url.startswith(hub.endpoint) and "recursive=true" in url and "limit=10" in url)
    assert seen == [f"many/a+b {number:02d}" for number in range(25)]
    assert pages == 3


async def test_paths_info_takes_forms_and_json_and_at_most_1000_paths(alice: aiohttp.ClientSession) -> None:
    url = f"/api/models/{REPO}/paths-info/main"
    wanted = ["file.txt", "none", "file.bin/"]
    form = aiohttp.FormData([("paths", path) for path in wanted])
    for body in ({"data": form}, {"json": {"paths": wanted}}):
        async with alice.post(url, **body) as response:
            assert [entry["path"] for entry in await response.json()] == ["file.txt", "file.bin"]
    async with alice.post(url, json={"paths": ["a"] * 1001}) as response:
        assert response.status == 413


async def test_preupload_decides_file_by_file(hub: HubServer, alice: aiohttp.ClientSession) -> None:
    def question(path: str, data: bytes) -> dict[str, Any]:
        return {"path": path, "size": len(data), "sample": base64.b64encode(data[:512]).decode()}

    files = [question("file.txt", TEXT), question("file.bin", BINARY), question("new.tmp", b"x")]
    body = {"files": files, "gitIgnore": "*.tmp\n"}
    async with alice.post(f"/api/models/{REPO}/preupload/main", json=body) as response:
        answer = await response.json()
    assert answer["commitOid"] == hub.head(REPO)
    assert answer["files"] == [
        {"path": "file.txt", "uploadMode": "regular", "shouldIgnore": False, "oid": blob_id(TEXT)},
        {"path": "file.bin", "uploadMode": "lfs", "shouldIgnore": False, "oid": SHA256},
        {"path": "new.tmp", "uploadMode": "regular", "shouldIgnore": True},
    ]
    attributes = {"files": files[:1], "gitAttributes": "*.txt filter=lfs\n"}
    async with alice.post(f"/api/models/{REPO}/preupload/main", json=attributes) as response:
        assert (await response.json())["files"][0]["uploadMode"] == "lfs"
    async with alice.post(f"/api/models/{REPO}/preupload/main", json={"files": files * 86}) as response:
        assert response.status == 413


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([HEADER, {"key": "lfsFile", "value": {"path": "a", "algo": "sha256", "oid": "0" * 64, "size": 1}}], 400),
        ([HEADER, {"key": "lfsFile", "value": {"path": "a", "algo": "sha256", "oid": SHA256, "size": 1}}], 400),
        ([HEADER, {"key": "mystery", "value": {"path": "a"}}], 400),
        ([HEADER, file_line("new", b"1"), {"key": "deletedFile", "value": {"path": "none"}}], 404),
        ([HEADER, {"key": "deletedFolder", "value": {"path": "none/"}}], 404),
        ([file_line("new", b"1")], 400),
        ([{"key": "header", "value": {"summary": "t", "parentCommit": "0" * 40}}, file_line("new", b"1")], 412),
        ([{"key": "header", "value": {"summary": "t", "parentCommit": "main"}}, file_line("new", b"1")], 400),
    ],
)
async def test_refused_commit_changes_nothing(
    hub: HubServer, alice: aiohttp.ClientSession, lines: list[dict[str, Any]], status: int
) -> None:
    head = hub.head(REPO)
    assert (await commit(alice, lines))[0] == status
    assert hub.head(REPO) == head


async def test_commit_answers_with_its_url(hub: HubServer, alice: aiohttp.ClientSession) -> None:
    lfs_line = {"key": "lfsFile", "value": {"path": "copy.bin", "algo": "sha256", "oid": SHA256}}
    status, answer = await commit(alice, [HEADER, file_line("new", b"1"), lfs_line])
    assert status == 200
    assert answer["commitOid"] == hub.head(REPO)
    assert answer["commitUrl"] == f"{hub.endpoint}/{REPO}/commit/{hub.head(REPO)}"
    files = hub.read_files(REPO)
    assert (files["new"], files["copy.bin"]) == (b"1", BINARY)
    assert (await commit(alice, [HEADER, file_line("x", b"")], "nowhere"))[0] == 404
    # A commit id is no branch.
    assert (await commit(alice, [HEADER, file_line("x", b"")], hub.head(REPO)))[0] == 404


async def test_nothing_moves_a_branch_while_a_commit_is_under_way(hub: HubServer, alice: aiohttp.ClientSession) -> None:
    head = hub.head(REPO)
    repo = hub.hub.repos.get("model", "alice", "m")
    assert repo is not None
    repo.busy.add("main")
    assert (await commit(alice, [HEADER, file_line("new", b"1")]))[0] == 409
    async with alice.post(f"/api/models/{REPO}/super-squash/main", json={}) as response:
        assert response.status == 409
    for url, body in (("/api/repos/delete", {"name": "m"}), (f"/api/models/{REPO}/branch/main", {})):
        async with alice.delete(url, json=body) as response:
            assert response.status == 409
    with pytest.raises(HubError, match="Another commit operation is in progress"):
        hub.seed_files(REPO, {"new": b"1"})
    assert hub.head(REPO) == head
    repo.busy.discard("main")
    assert (await commit(alice, [HEADER, file_line("new", b"1")]))[0] == 200


@pytest.mark.parametrize("name", ["..", "a/../b", "", "a b", ".hidden"])
async def test_bad_names_are_refused(alice: aiohttp.ClientSession, name: str) -> None:
    async with alice.post("/api/repos/create", json={"name": name, "organization": "alice"}) as response:
        assert response.status in (400, 403)


async def test_bucket_resolve_and_batch_refusal(hub: HubServer, alice: aiohttp.ClientSession) -> None:
    hub.seed_bucket("alice/b", {"k": BINARY})
    async with alice.head("/buckets/alice/b/resolve/k") as response:
        headers = response.headers
        assert response.status == 302
    assert headers["ETag"] == headers["X-Linked-Etag"] == f'"{headers["X-Xet-Hash"]}"'
    assert headers["X-Xet-Refresh-Route"] == f"{hub.endpoint}/api/buckets/alice/b/xet-read-token"
    assert "X-Repo-Commit" not in headers
    lines = [
        {"type": "addFile", "path": "new", "xetHash": "1" * 64},
        {"type": "addFile", "path": "/bad", "xetHash": ""},
    ]
    body = "\n".join(map(json.dumps, lines))
    async with alice.post("/api/buckets/alice/b/batch", data=body) as response:
        assert response.status == 422
        answer = await response.json()
    assert answer == {
        "success": False,
        "processed": 2,
        "succeeded": 0,
        "failed": [{"path": "new", "error": "xet hash not found"}, {"path": "/bad", "error": "invalid path"}],
    }
    line = {"type": "addFile", "path": "new", "xetHash": headers["X-Xet-Hash"], "mtime": 1_700_000_000_123}
    async with alice.post("/api/buckets/alice/b/batch", data=json.dumps(line)) as response:
        assert (await response.json())["success"] is True
    async with alice.post("/api/buckets/alice/b/paths-info", json={"paths": ["new"]}) as response:
        [entry] = await response.json()
    assert (entry["size"], entry["mtime"]) == (256, "2023-11-14T22:13:20.123Z")


async def test_quota_headers_come_with_every_answer_and_then_429(hub: HubServer, alice: aiohttp.ClientSession) -> None:
    hub.set(api_quota=2, quota_headers="both")
    statuses = []
    for _ in range(3):
        async with alice.get("/api/models/alice/none") as response:
            statuses.append((response.status, response.headers["RateLimit"].partition(";t=")[0]))
            retry_after = response.headers.get("Retry-After")
    assert statuses == [(404, '"api";r=1'), (404, '"api";r=0'), (429, '"api";r=0')]
    assert retry_after is not None
    assert 290 <= int(retry_after) <= 300
    async with alice.head(f"/{REPO}/resolve/main/file.txt") as response:
        assert response.status == 200
        assert "RateLimit" not in response.headers
    hub.reset_limits()
    async with alice.get("/api/whoami-v2") as response:
        assert response.status == 200
