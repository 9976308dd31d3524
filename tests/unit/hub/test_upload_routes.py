"""LFS and the CAS in detail: what they refuse, and what they answer to the rest."""

from __future__ import annotations

import hashlib
import json

import aiohttp

from tests.hub import HubServer
from tests.unit.hub.conftest import BINARY, REPO, SHA256


async def test_lfs_refuses_other_bytes_than_announced(hub: HubServer, alice: aiohttp.ClientSession) -> None:
    wanted = b"wanted content"
    oid = hashlib.sha256(wanted).hexdigest()
    body = {"operation": "upload", "objects": [{"oid": oid, "size": len(wanted)}, {"oid": SHA256, "size": 256}]}
    async with alice.post(f"/{REPO}.git/info/lfs/objects/batch", json=body) as response:
        assert response.content_type == "application/vnd.git-lfs+json"
        answer = json.loads(await response.read())
    assert answer["transfer"] == "basic"
    new, known = answer["objects"]
    assert "actions" not in known
    actions = new["actions"]
    async with alice.post(actions["verify"]["href"], json={"oid": oid, "size": len(wanted)}) as response:
        assert response.status == 404
    for data, status in ((b"wanted contenT", 400), (b"short", 400), (wanted, 200)):
        async with alice.put(actions["upload"]["href"], data=data) as response:
            assert response.status == status
    for size_bytes, status in ((len(wanted), 200), (1, 404)):
        async with alice.post(actions["verify"]["href"], json={"oid": oid, "size": size_bytes}) as response:
            assert response.status == status


async def test_lfs_parts_are_joined_and_checked(hub: HubServer, alice: aiohttp.ClientSession) -> None:
    hub.set(lfs_part_bytes=4)
    wanted = b"0123456789"
    oid = hashlib.sha256(wanted).hexdigest()
    body = {"operation": "upload", "transfers": ["multipart"], "objects": [{"oid": oid, "size": 10}]}
    async with alice.post(f"/{REPO}.git/info/lfs/objects/batch", json=body) as response:
        answer = json.loads(await response.read())
    assert answer["transfer"] == "multipart"
    upload = answer["objects"][0]["actions"]["upload"]
    assert (sorted(upload["header"]), upload["header"]["chunk_size"]) == (
        ["00001", "00002", "00003", "chunk_size"],
        "4",
    )
    parts = []
    for number, piece in enumerate((b"0123", b"4567", b"89"), start=1):
        async with alice.put(upload["header"][f"{number:05d}"], data=piece) as response:
            parts.append({"partNumber": number, "etag": response.headers["ETag"]})
    for some, status in ((parts[:2], 400), ([*parts[:2], {**parts[2], "etag": "x"}], 400), (parts, 200)):
        async with alice.post(upload["href"], json={"oid": oid, "parts": some}) as response:
            assert response.status == status


async def test_cas_checks_tokens_and_scopes(hub: HubServer, alice: aiohttp.ClientSession) -> None:
    tokens = {}
    for scope in ("read", "write"):
        async with alice.get(f"/api/models/{REPO}/xet-{scope}-token/main") as response:
            body = await response.json()
            assert response.headers["X-Xet-Access-Token"] == body["accessToken"]
            assert response.headers["X-Xet-Token-Expiration"] == str(body["exp"])
            assert response.headers["X-Xet-Cas-Url"] == body["casUrl"] == hub.cdn
            tokens[scope] = body["accessToken"]
    forged = tokens["read"].replace("xet_read", "xet_write")
    hub.set(xet_token_ttl_s=0)
    async with alice.get(f"/api/models/{REPO}/xet-write-token/main") as response:
        expired = (await response.json())["accessToken"]
    for token, on_read, on_write in (
        (tokens["read"], 404, 403),
        (tokens["write"], 404, 400),
        (forged, 401, 401),
        (expired, 401, 401),
        ("", 401, 401),
    ):
        headers = {"Authorization": f"Bearer {token}"}
        async with alice.get(f"{hub.cdn}/v2/reconstructions/{'1' * 64}", headers=headers) as response:
            assert response.status == on_read
        async with alice.post(f"{hub.cdn}/v1/shards", data=b"no shard", headers=headers) as response:
            assert response.status == on_write
    async with alice.get(f"/api/models/{REPO}/xet-read-token/nowhere") as response:
        assert response.headers["X-Error-Code"] == "RevisionNotFound"


async def test_grant_is_bound_to_its_xorb_and_length(hub: HubServer, alice: aiohttp.ClientSession) -> None:
    async with alice.get(f"/api/models/{REPO}/xet-write-token/main") as response:
        headers = {"Authorization": f"Bearer {(await response.json())['accessToken']}"}
    xorb = bytes([0, 3, 0, 0, 0, 3, 0, 0]) + b"abc"
    name, other = "a" * 64, "b" * 64
    grants = f"{hub.cdn}/v1/xorb-grants/default/{name}"
    async with alice.post(grants, json={"length": len(xorb)}, headers=headers) as response:
        assert response.status == 201
        grant = await response.json()
    commits = f"{hub.cdn}/v1/xorb-commits/default"
    async with alice.post(f"{commits}/{name}/grant/{grant['id']}", headers=headers) as response:
        assert response.status == 404  # nothing was uploaded yet
    for data, status in ((xorb[:-1], 400), (b"X" * len(xorb), 400), (xorb, 200)):
        async with alice.put(grant["url"], data=data) as response:
            assert response.status == status
    for wrong in (f"{other}/grant/{grant['id']}", f"{name}/grant/{'0' * 32}"):
        async with alice.post(f"{commits}/{wrong}", headers=headers) as response:
            assert response.status == 404
    async with alice.post(f"{commits}/{name}/grant/{grant['id']}", headers=headers) as response:
        assert await response.json() == {"was_inserted": True}
    async with alice.post(grants, json={"length": len(xorb)}, headers=headers) as response:
        assert (response.status, await response.json()) == (200, {"was_inserted": False})
    async with alice.post(f"{hub.cdn}/v1/xorbs/default/{name}", data=xorb, headers=headers) as response:
        assert await response.json() == {"was_inserted": False}


async def test_v1_and_v2_reconstructions_give_the_same_bytes(hub: HubServer, alice: aiohttp.ClientSession) -> None:
    async with alice.get("/api/models/alice/x/xet-read-token/main") as response:
        headers = {"Authorization": f"Bearer {(await response.json())['accessToken']}", "Range": "bytes=100-199"}
    async with alice.head("/alice/x/resolve/main/file.bin") as response:
        file_hash = response.headers["X-Xet-Hash"]
    async with alice.get(f"{hub.cdn}/v1/reconstructions/{file_hash}", headers=headers) as response:
        [[first]] = (await response.json())["fetch_info"].values()
    async with alice.get(f"{hub.cdn}/v2/reconstructions/{file_hash}", headers=headers) as response:
        body = await response.json()
        assert body["offset_into_first_range"] == 100
        [[second]] = body["xorbs"].values()
    assert first["url"] == second["url"]
    span = second["ranges"][0]["bytes"]
    assert first["url_range"] == span
    asked = {"Range": f"bytes={span['start']}-{span['end']}"}
    async with aiohttp.ClientSession() as anonymous, anonymous.get(second["url"], headers=asked) as response:
        assert response.status == 206
        # One raw chunk with its header of eight bytes.
        assert (await response.read())[8:] == BINARY
    past = {**headers, "Range": "bytes=256-"}
    async with alice.get(f"{hub.cdn}/v2/reconstructions/{file_hash}", headers=past) as response:
        assert response.status == 416
