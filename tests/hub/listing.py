"""Listing a repo: trees by page, and what is known of given paths."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from aiohttp import web

from tests.hub.access import require_visible
from tests.hub.bodies import is_true, read_object
from tests.hub.errors import HubError, bad_request, entry_not_found
from tests.hub.gitobjects import lfs_pointer
from tests.hub.pagination import page
from tests.hub.repos import Repo
from tests.hub.state import Hub, caller_of, hub_of, repo_of
from tests.hub.trees import Tree

_PER_PAGE = 1000
_PER_EXPANDED_PAGE = 50
_MAX_PATHS = 1000


class Renderer:
    """Makes the JSON entries of one commit's files and folders."""

    def __init__(self, hub: Hub, repo: Repo, tree: Tree, *, expand: bool) -> None:
        self._hub = hub
        self._repo = repo
        self._tree = tree
        self._expand = expand

    def __call__(self, path: str) -> dict[str, Any]:
        entry = self._file(path) if path in self._tree.files else self._folder(path)
        return {**entry, "path": path}

    def _file(self, path: str) -> dict[str, Any]:
        file = self._tree.files[path]
        entry: dict[str, Any] = {"type": "file", "oid": file.oid, "size": file.size}
        if file.sha256:
            pointer_bytes = len(lfs_pointer(file.sha256, file.size))
            entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": pointer_bytes}
        if file.xet and self._hub.has_cas:
            entry["xetHash"] = file.xet
        if self._expand:
            entry["lastCommit"] = self._last_commit({file.commit})
        return entry

    def _folder(self, path: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "directory", "oid": self._tree.folder_id(path), "size": 0}
        if self._expand:
            entry["lastCommit"] = self._last_commit(self._tree.commits_below(path))
        return entry

    def _last_commit(self, commit_ids: set[str]) -> dict[str, str]:
        newest = max((self._repo.commit(commit_id) for commit_id in commit_ids), key=lambda commit: commit.number)
        return {"id": newest.id, "title": newest.title, "date": newest.date}


async def list_tree(request: web.Request) -> web.Response:
    hub = hub_of(request)
    repo = require_visible(caller_of(request), repo_of(request))
    commit_id = repo.resolve(request.match_info["revision"])
    tree = repo.tree(commit_id)
    folder = request.match_info.get("path", "").strip("/")
    if not tree.is_folder(folder):
        raise entry_not_found(f'{folder} does not exist on "{request.match_info["revision"]}"', commit_id)
    expand = is_true(request, "expand")
    paths = tree.below(folder) if is_true(request, "recursive") else tree.directly_in(folder)
    page_size = _PER_EXPANDED_PAGE if expand else _PER_PAGE
    return page(request, hub.endpoint, paths, Renderer(hub, repo, tree, expand=expand), page_size=page_size)


async def _asked_paths(request: web.Request) -> tuple[list[str], bool]:
    """Return the paths and the expand flag of a form (Python client) or a JSON object (JavaScript client)."""
    if request.content_type == "application/json":
        body = await read_object(request)
        paths, expand = body.get("paths", []), bool(body.get("expand", False))
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise bad_request("paths must be a list of strings")
        return paths, expand
    # Not request.post(), which takes 1,000 fields: one less than 1,000 paths and the flag.
    form = parse_qs((await request.read()).decode(), keep_blank_values=True)
    return form.get("paths", []), form.get("expand", [""])[0].lower() == "true"


async def paths_info(request: web.Request) -> web.Response:
    hub = hub_of(request)
    repo = require_visible(caller_of(request), repo_of(request))
    tree = repo.tree(repo.resolve(request.match_info["revision"]))
    paths, expand = await _asked_paths(request)
    if len(paths) > _MAX_PATHS:
        raise HubError(413, f"Too many paths: {len(paths)}, at most {_MAX_PATHS} are allowed")
    render = Renderer(hub, repo, tree, expand=expand)
    asked = dict.fromkeys(path.rstrip("/") for path in paths)
    found = [path for path in asked if path and (path in tree.files or tree.is_folder(path))]
    return web.json_response([render(path) for path in found])


def routes() -> list[web.RouteDef]:
    repo = "/api/{type:models|datasets|spaces}/{namespace}/{name}"
    return [
        web.get(repo + "/tree/{revision}", list_tree),
        web.get(repo + "/tree/{revision}/{path:.*}", list_tree),
        web.post(repo + "/paths-info/{revision}", paths_info),
    ]
