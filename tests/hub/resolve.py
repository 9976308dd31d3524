"""Files of a repo by name: `resolve` (the content, or a redirect to it) and `raw` (git's view)."""

from __future__ import annotations

from urllib.parse import quote

from aiohttp import web

from tests.hub.access import require_visible
from tests.hub.errors import entry_not_found
from tests.hub.gitobjects import lfs_pointer
from tests.hub.ranges import not_modified, serve
from tests.hub.repos import Repo
from tests.hub.state import Hub, caller_of, hub_of, repo_of
from tests.hub.trees import Entry

TEXT = "text/plain; charset=utf-8"
FILE_INFO = "application/vnd.xet-fileinfo+json"


def xet_headers(hub: Hub, xet_hash: str, refresh_path: str) -> dict[str, str]:
    """Return the headers that send a client with Xet to the CAS.

    Args:
        refresh_path: path of the route that gives read tokens.
    """
    refresh = hub.endpoint + refresh_path
    reconstruction = f"{hub.cdn}/v1/reconstructions/{xet_hash}"
    return {
        "X-Xet-Hash": xet_hash,
        "X-Xet-Refresh-Route": refresh,
        "Link": f'<{refresh}>; rel="xet-auth", <{reconstruction}>; rel="xet-reconstruction-info"',
    }


def redirect(
    request: web.Request, *, etag: str, size_bytes: int, location: str, xet_hash: str | None, headers: dict[str, str]
) -> web.Response:
    """Answer for a file whose content lies at the second origin.

    Args:
        etag: without quotes: the content's sha256, in buckets its Xet hash.
        headers: further headers, the Xet ones among them.
    """
    common = {"ETag": f'"{etag}"', "X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(size_bytes), **headers}
    common["Access-Control-Expose-Headers"] = "*"
    if xet_hash and request.method == "GET" and FILE_INFO in request.headers.get("Accept", ""):
        info = {"hash": xet_hash, "size": size_bytes}
        return web.json_response(info, headers=common, content_type=FILE_INFO)
    if not_modified(request, common["ETag"]):
        return web.Response(status=304, headers=common)
    return web.Response(status=302, headers={**common, "Location": location})


def _find(request: web.Request) -> tuple[Repo, str, Entry]:
    repo = require_visible(caller_of(request), repo_of(request))
    commit_id = repo.resolve(request.match_info["revision"])
    entry = repo.tree(commit_id).files.get(request.match_info["path"])
    if entry is None:
        raise entry_not_found(commit=commit_id)
    return repo, commit_id, entry


async def resolve(request: web.Request) -> web.Response:
    hub = hub_of(request)
    repo, commit_id, entry = _find(request)
    headers = {"X-Repo-Commit": commit_id}
    if entry.sha256 is None:
        content = hub.blobs.git_path(entry.oid)
        return serve(request, content, etag=entry.oid, content_type=TEXT, headers=headers)
    xet_hash = entry.xet if hub.has_cas else None
    if xet_hash:
        refresh_path = f"/api/{repo.type}s/{quote(repo.id)}/xet-read-token/{commit_id}"
        headers |= xet_headers(hub, xet_hash, refresh_path)
    key = f"xet/{entry.xet}" if entry.xet else f"lfs/{entry.sha256}"
    return redirect(
        request,
        etag=entry.sha256,
        size_bytes=entry.size,
        location=f"{hub.cdn}/content/{key}",
        xet_hash=xet_hash,
        headers=headers,
    )


async def raw(request: web.Request) -> web.Response:
    _, commit_id, entry = _find(request)
    content = lfs_pointer(entry.sha256, entry.size) if entry.sha256 else hub_of(request).blobs.git_path(entry.oid)
    return serve(request, content, etag=entry.oid, content_type=TEXT, headers={"X-Repo-Commit": commit_id})


def routes() -> list[web.RouteDef]:
    repos = ("/{namespace}/{name}", "/{type:datasets|spaces}/{namespace}/{name}")
    return [
        web.get(repo + view + "/{revision}/{path:.+}", handler)
        for repo in repos
        for view, handler in (("/resolve", resolve), ("/raw", raw))
    ]
