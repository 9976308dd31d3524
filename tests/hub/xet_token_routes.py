"""Tokens for the CAS, given out by the hub port to those who may read or write the repo or bucket."""

from __future__ import annotations

from aiohttp import web

from tests.hub.access import Caller, GuardedT, require_visible, require_writable
from tests.hub.errors import unrouted
from tests.hub.state import Hub, Scope, bucket_of, caller_of, hub_of, repo_of


def _check(caller: Caller, target: GuardedT | None, scope: Scope) -> GuardedT:
    return require_writable(caller, target) if scope == "write" else require_visible(caller, target)


def _answer(hub: Hub, scope: Scope) -> web.Response:
    if not hub.has_cas:
        raise unrouted()
    token, expires_s = hub.xet_tokens.issue(scope, hub.settings.xet_token_ttl_s)
    headers = {
        "X-Xet-Access-Token": token,
        "X-Xet-Token-Expiration": str(expires_s),
        "X-Xet-Cas-Url": hub.cdn,
    }
    return web.json_response({"accessToken": token, "exp": expires_s, "casUrl": hub.cdn}, headers=headers)


async def _repo_token(request: web.Request, scope: Scope) -> web.Response:
    revision = request.match_info["revision"]
    repo = _check(caller_of(request), repo_of(request), scope)
    for_new_pr = revision == "None" and "create_pr" in request.query
    if not for_new_pr and not revision.startswith("refs/pr"):
        repo.resolve(revision)
    return _answer(hub_of(request), scope)


async def _bucket_token(request: web.Request, scope: Scope) -> web.Response:
    _check(caller_of(request), bucket_of(request), scope)
    return _answer(hub_of(request), scope)


async def repo_read_token(request: web.Request) -> web.Response:
    return await _repo_token(request, "read")


async def repo_write_token(request: web.Request) -> web.Response:
    return await _repo_token(request, "write")


async def bucket_read_token(request: web.Request) -> web.Response:
    return await _bucket_token(request, "read")


async def bucket_write_token(request: web.Request) -> web.Response:
    return await _bucket_token(request, "write")


def routes() -> list[web.RouteDef]:
    repo, bucket = "/api/{type:models|datasets|spaces}/{namespace}/{name}", "/api/buckets/{namespace}/{name}"
    return [
        web.get(repo + "/xet-read-token/{revision}", repo_read_token),
        web.get(repo + "/xet-write-token/{revision}", repo_write_token),
        web.get(bucket + "/xet-read-token", bucket_read_token),
        web.get(bucket + "/xet-write-token", bucket_write_token),
    ]
