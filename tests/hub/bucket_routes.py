"""Buckets: files without history, named by Xet hash, changed in batches that may fail in part."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from aiohttp import web

from tests.hub.access import require_login, require_namespace, require_visible, require_writable
from tests.hub.bodies import is_true, read_lines, read_object, require_name
from tests.hub.buckets import Bucket, BucketFile, BucketFolder, iso_from_ms, listing, valid_key
from tests.hub.errors import HubError, bad_request, entry_not_found
from tests.hub.pagination import page
from tests.hub.repo_routes import wants_private
from tests.hub.repos import now_iso
from tests.hub.resolve import redirect, xet_headers
from tests.hub.state import Hub, bucket_of, caller_of, hub_of
from tests.hub.xet_hash import is_hash_string

_PER_PAGE = 1000
_PAGE_CAP = 5000
_MAX_OPERATIONS = 1000


async def create_bucket(request: web.Request) -> web.Response:
    hub, caller = hub_of(request), caller_of(request)
    namespace, name = request.match_info["namespace"], request.match_info["name"]
    if namespace == "me":
        namespace = require_login(caller)
    require_namespace(caller, namespace)
    require_name(name)
    body = await read_object(request)
    bucket = hub.buckets.get(namespace, name)
    exists = bucket is not None
    if bucket is None:
        bucket = hub.buckets.create(namespace, name, private=wants_private(body))
    answer = {"url": f"{hub.endpoint}/buckets/{bucket.id}", "name": bucket.id, "id": bucket.key}
    if exists:
        raise HubError(409, f"You already created this bucket: {bucket.id}", body=answer)
    return web.json_response(answer)


def _info(bucket: Bucket) -> dict[str, Any]:
    return {
        "id": bucket.id,
        "private": bucket.private,
        "createdAt": bucket.created,
        "updatedAt": bucket.updated,
        "size": bucket.size_bytes,
        "totalFiles": len(bucket.files),
    }


async def bucket_info(request: web.Request) -> web.Response:
    return web.json_response(_info(require_visible(caller_of(request), bucket_of(request))))


async def delete_bucket(request: web.Request) -> web.Response:
    hub_of(request).buckets.delete(require_writable(caller_of(request), bucket_of(request)))
    return web.json_response({})


async def list_buckets(request: web.Request) -> web.Response:
    hub, caller = hub_of(request), caller_of(request)
    namespace = request.match_info["namespace"]
    if namespace == "me":
        namespace = require_login(caller)
    search = request.query.get("search", "")
    buckets = [
        bucket
        for bucket in hub.buckets.of(namespace)
        if search in bucket.name and (not bucket.private or namespace == caller.user)
    ]
    return page(request, hub.endpoint, buckets, _info, page_size=_PER_PAGE, cap=_PAGE_CAP)


def _entry(item: BucketFile | BucketFolder) -> dict[str, Any]:
    if isinstance(item, BucketFolder):
        return {"type": "directory", "path": item.path, "uploadedAt": item.uploaded}
    entry = {
        "type": "file",
        "path": item.path,
        "size": item.size,
        "xetHash": item.xet,
        "mtime": item.mtime,
        "uploadedAt": item.uploaded,
    }
    return entry | ({"contentType": item.content_type} if item.content_type else {})


async def list_tree(request: web.Request) -> web.Response:
    bucket = require_visible(caller_of(request), bucket_of(request))
    prefix = request.match_info.get("prefix", "")
    items = listing(bucket, prefix, recursive=is_true(request, "recursive", default=True))
    return page(request, hub_of(request).endpoint, items, _entry, page_size=_PER_PAGE, cap=_PAGE_CAP)


async def paths_info(request: web.Request) -> web.Response:
    bucket = require_visible(caller_of(request), bucket_of(request))
    paths = (await read_object(request)).get("paths", [])
    if not isinstance(paths, list):
        raise bad_request("paths must be a list of strings")
    if len(paths) > _MAX_OPERATIONS:
        raise HubError(413, f"Too many paths: {len(paths)}, at most {_MAX_OPERATIONS} are allowed")
    return web.json_response([_entry(bucket.files[path]) for path in paths if path in bucket.files])


def _apply(hub: Hub, bucket: Bucket, operation: dict[str, Any]) -> str | None:
    """Carry out one line of a batch; returns what was wrong with it."""
    kind, path = operation.get("type"), operation.get("path")
    if not isinstance(path, str) or not valid_key(path):
        return "invalid path"
    if kind == "deleteFile":
        bucket.files.pop(path, None)
        return None
    if kind not in ("addFile", "copyFile"):
        return f"invalid operation: {kind}"
    xet_hash = str(operation.get("xetHash"))
    record = hub.xet.record(xet_hash) if is_hash_string(xet_hash) else None
    if record is None:
        return "xet hash not found"
    mtime = iso_from_ms(operation.get("mtime"))
    content_type = operation.get("contentType")
    bucket.files[path] = BucketFile(path, record.size_bytes, xet_hash, mtime, now_iso(), content_type)
    return None


async def batch(request: web.Request) -> web.Response:
    hub = hub_of(request)
    bucket = require_writable(caller_of(request), bucket_of(request))
    operations = await read_lines(request)
    if len(operations) > _MAX_OPERATIONS:
        raise HubError(413, f"Too many operations: {len(operations)}, at most {_MAX_OPERATIONS} are allowed")
    outcomes = [(operation.get("path"), _apply(hub, bucket, operation)) for operation in operations]
    hub.buckets.save(bucket)
    failed = [{"path": path, "error": error} for path, error in outcomes if error]
    answer = {
        "success": not failed,
        "processed": len(operations),
        "succeeded": len(operations) - len(failed),
        "failed": failed,
    }
    return web.json_response(answer, status=422 if failed and len(failed) == len(operations) else 200)


async def resolve(request: web.Request) -> web.Response:
    hub = hub_of(request)
    bucket = require_visible(caller_of(request), bucket_of(request))
    file = bucket.files.get(request.match_info["path"])
    if file is None:
        raise entry_not_found()
    return redirect(
        request,
        etag=file.xet,
        size_bytes=file.size,
        location=f"{hub.cdn}/content/xet/{file.xet}",
        xet_hash=file.xet,
        headers=xet_headers(hub, file.xet, f"/api/buckets/{quote(bucket.id)}/xet-read-token"),
    )


def routes() -> list[web.RouteDef]:
    bucket = "/api/buckets/{namespace}/{name}"
    return [
        web.post(bucket, create_bucket),
        web.get(bucket, bucket_info),
        web.delete(bucket, delete_bucket),
        web.get("/api/buckets/{namespace}", list_buckets),
        web.get(bucket + "/tree", list_tree),
        web.get(bucket + "/tree/{prefix:.*}", list_tree),
        web.post(bucket + "/paths-info", paths_info),
        web.post(bucket + "/batch", batch),
        web.get("/buckets/{namespace}/{name}/resolve/{path:.+}", resolve),
    ]
