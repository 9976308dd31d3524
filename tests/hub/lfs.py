"""Git LFS: the batch call, verification, and uploads in one piece or in parts.

Format: the Git LFS batch API with the Hub's `multipart` and `xet` transfers. Upload URLs carry all that is needed
to check them, so uploads go on after a restart.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web

from tests.hub.access import require_writable
from tests.hub.bodies import read_object
from tests.hub.errors import HubError, bad_request
from tests.hub.files import write_atomic
from tests.hub.repos import Repo
from tests.hub.state import Hub, caller_of, hub_of, repo_of

LFS_JSON = "application/vnd.git-lfs+json"
_MAX_OBJECTS = 256
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _stored_bytes(hub: Hub, sha256: str) -> int | None:
    """Return the size of a stored content, be it an LFS blob or a file in Xet."""
    record = hub.xet.by_sha256(sha256)
    if record:
        return record.size_bytes
    path = hub.blobs.lfs_path(sha256)
    return path.stat().st_size if path else None


def _lfs_url(hub: Hub, repo: Repo) -> str:
    return f"{hub.endpoint}/{repo.url_path}.git/info/lfs"


def _upload_action(hub: Hub, repo: Repo, oid: str, size_bytes: int) -> dict[str, Any]:
    part_bytes = int(hub.settings.lfs_part_bytes)
    if size_bytes <= part_bytes:
        return {"href": f"{hub.cdn}/lfs/{oid}/{size_bytes}"}
    upload = secrets.token_hex(16)
    count = -(-size_bytes // part_bytes)
    parts = {f"{number:05d}": f"{hub.cdn}/lfs-parts/{upload}/{number}" for number in range(1, count + 1)}
    return {"href": f"{_lfs_url(hub, repo)}/complete/{upload}", "header": {"chunk_size": str(part_bytes), **parts}}


def _xet_action(hub: Hub, repo: Repo, revision: str) -> dict[str, Any]:
    token, expires_s = hub.xet_tokens.issue("write", hub.settings.xet_token_ttl_s)
    return {
        "href": f"{hub.endpoint}/api/{repo.type}s/{repo.id}/xet-write-token/{quote(revision, safe='')}",
        "header": {
            "X-Xet-Cas-Url": hub.cdn,
            "X-Xet-Access-Token": token,
            "X-Xet-Token-Expiration": str(expires_s),
            "X-Xet-Session-Id": secrets.token_hex(16),
        },
    }


def _objects(body: dict[str, Any]) -> list[tuple[str, int]]:
    """Return (oid, size) of the objects asked for."""
    try:
        objects = [(str(item["oid"]), int(item["size"])) for item in body["objects"]]
    except (KeyError, TypeError, ValueError) as error:
        raise bad_request("objects is required, each with oid and size") from error
    if len(objects) > _MAX_OBJECTS:
        raise HubError(413, f"Too many objects: {len(objects)}, at most {_MAX_OBJECTS} are allowed")
    return objects


async def batch(request: web.Request) -> web.Response:
    hub = hub_of(request)
    repo = require_writable(caller_of(request), repo_of(request))
    body = await read_object(request)
    if body.get("operation") != "upload":
        raise bad_request("Only the upload operation is supported")
    by_xet = hub.has_cas and "xet" in body.get("transfers", [])
    revision = (body.get("ref") or {}).get("name") or "main"
    answers: list[dict[str, Any]] = []
    for oid, size_bytes in _objects(body):
        answer: dict[str, Any] = {"oid": oid, "size": size_bytes}
        answers.append(answer)
        if not _SHA256.fullmatch(oid):
            answer["error"] = {"code": 422, "message": f"Invalid oid: {oid}"}
        elif _stored_bytes(hub, oid) is not None:
            continue
        elif by_xet:
            answer["actions"] = {"upload": _xet_action(hub, repo, revision)}
        else:
            verify = {"href": f"{_lfs_url(hub, repo)}/verify"}
            answer["actions"] = {"upload": _upload_action(hub, repo, oid, size_bytes), "verify": verify}
    transfer = "xet" if by_xet else _transfer(answers)
    return web.json_response({"transfer": transfer, "objects": answers}, content_type=LFS_JSON)


def _transfer(answers: list[dict[str, Any]]) -> str:
    uploads = (answer["actions"]["upload"] for answer in answers if "actions" in answer)
    return "multipart" if any("header" in upload for upload in uploads) else "basic"


async def verify(request: web.Request) -> web.Response:
    require_writable(caller_of(request), repo_of(request))
    body = await read_object(request)
    stored_bytes = _stored_bytes(hub_of(request), str(body.get("oid")))
    if stored_bytes is None or stored_bytes != body.get("size"):
        raise HubError(404, "Object not found or of another size")
    return web.json_response({})


async def put_object(request: web.Request) -> web.Response:
    """Take a whole object (second port)."""
    oid, size_bytes = request.match_info["oid"], int(request.match_info["size"])
    content = await request.read()
    if len(content) != size_bytes:
        raise bad_request(f"The body has {len(content)} bytes, not {size_bytes}")
    await asyncio.to_thread(_store, hub_of(request), oid, content)
    return web.Response(headers={"ETag": f'"{oid}"'})


def _store(hub: Hub, oid: str, content: bytes) -> None:
    actual = hashlib.sha256(content).hexdigest()
    if actual != oid:
        raise bad_request(f"The content has sha256 {actual}, not {oid}")
    hub.blobs.put_lfs(content)


async def put_part(request: web.Request) -> web.Response:
    """Take one part of an object (second port)."""
    content = await request.read()
    path = hub_of(request).uploads / request.match_info["upload"] / request.match_info["number"]
    await asyncio.to_thread(write_atomic, path, content)
    return web.Response(headers={"ETag": f'"{_part_etag(content)}"'})


def _part_etag(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


async def complete(request: web.Request) -> web.Response:
    """Join the parts of an upload; its id is the only credential, as clients send no token here."""
    hub = hub_of(request)
    body = await read_object(request)
    try:
        parts = [(int(part["partNumber"]), str(part["etag"]).strip('"')) for part in body["parts"]]
        oid = str(body["oid"])
    except (KeyError, TypeError, ValueError) as error:
        raise bad_request("oid and parts are required") from error
    folder = hub.uploads / request.match_info["upload"]
    await asyncio.to_thread(_join, hub, folder, oid, parts)
    return web.json_response({})


def _join(hub: Hub, folder: Path, oid: str, parts: list[tuple[int, str]]) -> None:
    pieces = []
    for number, etag in sorted(parts):
        path = folder / str(number)
        piece = path.read_bytes() if path.is_file() else None
        if piece is None or _part_etag(piece) != etag:
            raise bad_request(f"Part {number} was not uploaded, or with another ETag")
        pieces.append(piece)
    _store(hub, oid, b"".join(pieces))
    shutil.rmtree(folder)


def hub_routes() -> list[web.RouteDef]:
    repos = ("/{namespace}/{name}.git/info/lfs", "/{type:datasets|spaces}/{namespace}/{name}.git/info/lfs")
    return [
        web.post(repo + path, handler)
        for repo in repos
        for path, handler in (
            ("/objects/batch", batch),
            ("/verify", verify),
            ("/complete/{upload:[0-9a-f]+}", complete),
        )
    ]


def cdn_routes() -> list[web.RouteDef]:
    return [
        web.put("/lfs/{oid:[0-9a-f]{64}}/{size:[0-9]+}", put_object),
        web.put("/lfs-parts/{upload:[0-9a-f]+}/{number:[0-9]+}", put_part),
    ]
