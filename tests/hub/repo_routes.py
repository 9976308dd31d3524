"""Life cycle of repos: create, delete, info, branches, refs, history, squash."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from tests.hub.access import require_namespace, require_visible, require_writable
from tests.hub.attributes import INITIAL_GITATTRIBUTES
from tests.hub.bodies import is_true, read_object, require_name, require_text
from tests.hub.errors import HubError, bad_request
from tests.hub.gitobjects import lfs_pointer
from tests.hub.pagination import page
from tests.hub.repos import Commit, Repo
from tests.hub.state import Hub, caller_of, hub_of, repo_of
from tests.hub.trees import Entry

_TYPES = ("model", "dataset", "space")
_COMMITS_PER_PAGE = 50


def wants_private(body: dict[str, Any]) -> bool:
    """Read the visibility that a create call asks for, in its new or its old form."""
    if "visibility" in body:
        return bool(body["visibility"] == "private")
    return bool(body.get("private", False))


def make_repo(hub: Hub, repo_type: str, namespace: str, name: str, *, private: bool) -> Repo:
    """Create a repo with its initial commit."""
    content = INITIAL_GITATTRIBUTES.encode()
    entry = Entry(hub.blobs.put_git(content), len(content))
    return hub.repos.create(repo_type, namespace, name, private=private, files={".gitattributes": entry})


def _address(body: dict[str, Any], default_namespace: str | None) -> tuple[str, str, str]:
    repo_type = body.get("type") or "model"
    if repo_type not in _TYPES:
        raise bad_request(f"Invalid repo type: {repo_type}")
    namespace, slash, name = require_text(body, "name").rpartition("/")
    return repo_type, (namespace if slash else body.get("organization") or default_namespace or ""), name


async def create_repo(request: web.Request) -> web.Response:
    hub, caller = hub_of(request), caller_of(request)
    body = await read_object(request)
    repo_type, namespace, name = _address(body, caller.user)
    require_namespace(caller, namespace)
    require_name(name)
    repo = hub.repos.get(repo_type, namespace, name)
    exists = repo is not None
    if repo is None:
        repo = make_repo(hub, repo_type, namespace, name, private=wants_private(body))
    answer = {"url": f"{hub.endpoint}/{repo.url_path}", "name": repo.id, "id": repo.key}
    if exists:
        raise HubError(409, f"You already created this {repo_type} repo: {repo.id}", body=answer)
    return web.json_response(answer)


async def delete_repo(request: web.Request) -> web.Response:
    hub, caller = hub_of(request), caller_of(request)
    address = _address(await read_object(request), caller.user)
    repo = require_writable(caller, hub.repos.get(*address))
    for branch in repo.branches:
        repo.require_idle(branch)
    hub.repos.delete(repo)
    return web.json_response({})


def _sibling(path: str, entry: Entry, blobs: bool) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": path}
    if blobs:
        sibling.update(size=entry.size, blobId=entry.oid)
        if entry.sha256:
            pointer_bytes = len(lfs_pointer(entry.sha256, entry.size))
            sibling["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": pointer_bytes}
    return sibling


def _info(repo: Repo, commit_id: str, *, siblings: bool, blobs: bool) -> dict[str, Any]:
    info: dict[str, Any] = {
        "_id": repo.key,
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.namespace,
        "sha": commit_id,
        "lastModified": repo.commit(commit_id).date,
        "createdAt": repo.created,
        "private": repo.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
    }
    if siblings:
        files = repo.tree(commit_id).files
        info["siblings"] = [_sibling(path, files[path], blobs) for path in sorted(files)]
        info["usedStorage"] = sum(entry.size for entry in files.values())
    return info


async def repo_info(request: web.Request) -> web.Response:
    repo = require_visible(caller_of(request), repo_of(request))
    commit_id = repo.resolve(request.match_info.get("revision", "main"))
    expand = set(request.query.getall("expand", []))
    wants_files = not expand or bool(expand & {"siblings", "usedStorage"})
    info = _info(repo, commit_id, siblings=wants_files, blobs=is_true(request, "blobs"))
    if expand:
        info = {name: value for name, value in info.items() if name in expand | {"_id", "id"}}
    return web.json_response(info)


async def create_branch(request: web.Request) -> web.Response:
    repo = require_writable(caller_of(request), repo_of(request))
    branch = request.match_info["revision"]
    start = (await read_object(request)).get("startingPoint") or "main"
    if branch in repo.branches:
        raise HubError(409, f"Reference already exists: refs/heads/{branch}")
    repo.branches[branch] = repo.resolve(start)
    repo.save()
    return web.json_response({})


async def delete_branch(request: web.Request) -> web.Response:
    repo = require_writable(caller_of(request), repo_of(request))
    branch = request.match_info["revision"]
    repo.head(branch)
    repo.require_idle(branch)
    del repo.branches[branch]
    repo.save()
    return web.json_response({})


def _refs(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
    return [
        {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": target} for name, target in sorted(refs.items())
    ]


async def list_refs(request: web.Request) -> web.Response:
    repo = require_visible(caller_of(request), repo_of(request))
    answer = {"branches": _refs("heads", repo.branches), "tags": _refs("tags", repo.tags), "converts": []}
    if is_true(request, "include_prs"):
        answer["pullRequests"] = []
    return web.json_response(answer)


def _commit_row(commit: Commit) -> dict[str, Any]:
    return {
        "id": commit.id,
        "title": commit.title,
        "message": commit.message,
        "date": commit.date,
        "authors": [{"user": commit.author}],
    }


async def list_commits(request: web.Request) -> web.Response:
    repo = require_visible(caller_of(request), repo_of(request))
    history = list(repo.history(repo.resolve(request.match_info["revision"])))
    return page(request, hub_of(request).endpoint, history, _commit_row, page_size=_COMMITS_PER_PAGE)


async def super_squash(request: web.Request) -> web.Response:
    caller = caller_of(request)
    repo = require_writable(caller, repo_of(request))
    branch = request.match_info["revision"]
    head = repo.head(branch)
    repo.require_idle(branch)
    message = (await read_object(request)).get("message") or f"Super-squash branch '{branch}'"
    files = dict(repo.tree(head).files)
    repo.add_commit(branch, files, title=message, message="", author=str(caller.user), orphan=True)
    return web.json_response({})


def routes() -> list[web.RouteDef]:
    repo = "/api/{type:models|datasets|spaces}/{namespace}/{name}"
    return [
        web.post("/api/repos/create", create_repo),
        web.delete("/api/repos/delete", delete_repo),
        web.get(repo, repo_info),
        web.get(repo + "/revision/{revision}", repo_info),
        web.post(repo + "/branch/{revision}", create_branch),
        web.delete(repo + "/branch/{revision}", delete_branch),
        web.get(repo + "/refs", list_refs),
        web.get(repo + "/commits/{revision}", list_commits),
        web.post(repo + "/super-squash/{revision}", super_squash),
    ]
