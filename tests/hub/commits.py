"""Commits: a list of changes on top of a branch's head, all or nothing."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from tests.hub.access import require_visible, require_writable
from tests.hub.bodies import parse_lines, read_object, require_text
from tests.hub.errors import HubError, bad_request, entry_not_found
from tests.hub.gitobjects import blob_id, lfs_pointer
from tests.hub.repos import Repo
from tests.hub.state import Hub, caller_of, hub_of, repo_of
from tests.hub.trees import Entry, FileMap

_MOVED = "The branch was updated since you opened this page. Please refresh and try again."
_PARENT = re.compile(r"[0-9a-f]{5,40}")


def regular_entry(hub: Hub, content: bytes) -> Entry:
    return Entry(hub.blobs.put_git(content), len(content))


def lfs_entry(hub: Hub, sha256: str) -> Entry | None:
    """Return the entry of an uploaded content: from Xet if it is there, else from the LFS blobs."""
    record = hub.xet.by_sha256(sha256)
    if record:
        size_bytes, xet = record.size_bytes, record.hash
    else:
        path = hub.blobs.lfs_path(sha256)
        if path is None:
            return None
        size_bytes, xet = path.stat().st_size, None
    return Entry(blob_id(lfs_pointer(sha256, size_bytes)), size_bytes, sha256=sha256, xet=xet)


class Changes:
    """Applies the lines of a commit to a file map, one after the other."""

    def __init__(self, hub: Hub, files: FileMap, head: str) -> None:
        self._hub = hub
        self._head = head
        self.files = files

    def apply(self, lines: Sequence[dict[str, Any]]) -> None:
        """Apply all lines.

        Raises:
            HubError: 400 for a line that makes no sense, 404 for a deletion of nothing.
        """
        actions = {
            "file": self._file,
            "lfsFile": self._lfs_file,
            "deletedFile": self._deleted_file,
            "deletedFolder": self._deleted_folder,
        }
        for line in lines:
            key, value = line.get("key"), line.get("value")
            if key not in actions or not isinstance(value, dict):
                raise bad_request(f"Invalid commit line: {key}")
            actions[key](require_text(value, "path"), value)

    def _file(self, path: str, value: dict[str, Any]) -> None:
        content = value.get("content", "")
        try:
            data = base64.b64decode(content) if value.get("encoding") == "base64" else str(content).encode()
        except (TypeError, binascii.Error) as error:
            raise bad_request(f"Invalid content of {path}") from error
        self.files[path] = regular_entry(self._hub, data)

    def _lfs_file(self, path: str, value: dict[str, Any]) -> None:
        sha256 = require_text(value, "oid")
        entry = lfs_entry(self._hub, sha256)
        if entry is None:
            raise bad_request(f"LFS object {sha256} of {path} was not uploaded")
        if value.get("size") not in (None, entry.size):
            raise bad_request(f"{path} has {entry.size} bytes, not {value['size']}")
        self.files[path] = entry

    def _deleted_file(self, path: str, _: dict[str, Any]) -> None:
        if self.files.pop(path, None) is None:
            raise entry_not_found(f"A file with this name doesn't exist: {path}", self._head)

    def _deleted_folder(self, path: str, _: dict[str, Any]) -> None:
        prefix = path.rstrip("/") + "/"
        doomed = [name for name in self.files if name.startswith(prefix)]
        if not doomed:
            raise entry_not_found(f"A folder with this name doesn't exist: {path}", self._head)
        for name in doomed:
            del self.files[name]


def _split(lines: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the header and the other lines."""
    headers = [line.get("value") for line in lines if line.get("key") == "header"]
    if len(headers) != 1 or not isinstance(headers[0], dict):
        raise bad_request("A commit needs exactly one header")
    return headers[0], [line for line in lines if line.get("key") != "header"]


def check_parent(parent: Any, head: str) -> None:
    """Compare the parent that the client saw, if it says so, with the branch's head.

    Raises:
        HubError: 412 if the head has moved, 400 if it is no commit id.
    """
    if parent is None:
        return
    if not isinstance(parent, str) or not _PARENT.fullmatch(parent):
        raise bad_request(f"Invalid parentCommit: {parent}")
    if not head.startswith(parent):
        raise HubError(412, _MOVED)


async def _commit(hub: Hub, repo: Repo, branch: str, author: str, lines: list[dict[str, Any]]) -> str:
    """Make a commit while holding the branch and return its id."""
    header, changes = _split(lines)
    head = repo.head(branch)
    repo.require_idle(branch)
    repo.busy.add(branch)
    try:
        check_parent(header.get("parentCommit"), head)
        work = Changes(hub, dict(repo.tree(head).files), head)
        await asyncio.to_thread(work.apply, changes)
        await asyncio.sleep(hub.settings.commit_s)
        title, message = str(header.get("summary", "")), str(header.get("description", ""))
        return repo.add_commit(branch, work.files, title=title, message=message, author=author).id
    finally:
        repo.busy.discard(branch)


async def commit(request: web.Request) -> web.Response:
    hub, caller = hub_of(request), caller_of(request)
    repo = require_writable(caller, repo_of(request))
    branch, author = request.match_info["revision"], str(caller.user)
    repo.head(branch)
    body = await request.read()
    lines = await asyncio.to_thread(parse_lines, body)
    hub.limits.check_commit(author)
    commit_id = await _commit(hub, repo, branch, author, lines)
    hub.limits.count_commit(author)
    return web.json_response(
        {
            "success": True,
            "commitOid": commit_id,
            "commitUrl": f"{hub.endpoint}/{repo.url_path}/commit/{commit_id}",
            "hookOutput": "",
        }
    )


async def duplicate(request: web.Request) -> web.Response:
    """Make LFS files of one repo known to another; contents are shared by all repos, so this only checks them."""
    hub, caller = hub_of(request), caller_of(request)
    require_visible(caller, repo_of(request))
    body = await read_object(request)
    target = body.get("target") or {}
    namespace, _, name = str(target.get("name", "")).partition("/")
    require_writable(caller, hub.repos.get(target.get("type") or "model", namespace, name))
    hashes = [str(file.get("sha256")) for file in body.get("files", [])]
    failed = [{"sha256": sha256, "error": "not found"} for sha256 in hashes if lfs_entry(hub, sha256) is None]
    return web.json_response({"success": not failed, "failed": failed})


def routes() -> list[web.RouteDef]:
    repo = "/api/{type:models|datasets|spaces}/{namespace}/{name}"
    return [web.post(repo + "/commit/{revision}", commit), web.post(repo + "/lfs-files/duplicate", duplicate)]
