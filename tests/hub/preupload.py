"""The question before an upload: which files go to LFS, which are ignored, which are there already."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from aiohttp import web

from tests.hub.access import require_writable
from tests.hub.attributes import ignore_patterns, is_ignored, lfs_patterns, upload_mode
from tests.hub.bodies import read_object
from tests.hub.errors import HubError, bad_request
from tests.hub.state import Hub, caller_of, hub_of, repo_of
from tests.hub.trees import Tree

_MAX_FILES = 256


def repo_lfs_patterns(hub: Hub, tree: Tree) -> list[str]:
    """Return the LFS patterns of a commit's own `.gitattributes`."""
    entry = tree.files.get(".gitattributes")
    if entry is None or entry.sha256:
        return []
    return lfs_patterns(hub.blobs.git_path(entry.oid).read_text(errors="replace"))


def _answer(file: Any, tree: Tree, attributes: list[str], ignores: list[str]) -> dict[str, Any]:
    try:
        path, size_bytes = file["path"], int(file["size"])
        sample = base64.b64decode(file.get("sample", ""))
    except (TypeError, KeyError, ValueError, binascii.Error) as error:
        raise bad_request(f"Invalid file: {error!r}") from error
    answer: dict[str, Any] = {
        "path": path,
        "uploadMode": upload_mode(path, size_bytes, sample, attributes),
        "shouldIgnore": is_ignored(path, ignores),
    }
    known = tree.files.get(path)
    if known:
        answer["oid"] = known.sha256 or known.oid
    return answer


async def preupload(request: web.Request) -> web.Response:
    hub = hub_of(request)
    repo = require_writable(caller_of(request), repo_of(request))
    commit_id = repo.resolve(request.match_info["revision"])
    tree = repo.tree(commit_id)
    body = await read_object(request)
    files = body.get("files")
    if not isinstance(files, list):
        raise bad_request("files is required")
    if len(files) > _MAX_FILES:
        raise HubError(413, f"Too many files: {len(files)}, at most {_MAX_FILES} are allowed")
    given = body.get("gitAttributes")
    attributes = lfs_patterns(given) if isinstance(given, str) else repo_lfs_patterns(hub, tree)
    ignores = ignore_patterns(body.get("gitIgnore") or "")
    answers = [_answer(file, tree, attributes, ignores) for file in files]
    return web.json_response({"files": answers, "commitOid": commit_id})


def routes() -> list[web.RouteDef]:
    repo = "/api/{type:models|datasets|spaces}/{namespace}/{name}"
    return [web.post(repo + "/preupload/{revision}", preupload)]
