"""The CAS (second port): xorbs in, shards in, reconstructions out."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import Any

from aiohttp import web

from tests.hub.bodies import read_object
from tests.hub.errors import HubError, bad_request
from tests.hub.ranges import Unsatisfiable, parse_range
from tests.hub.reconstruction import DataUrl, Plan, plan
from tests.hub.state import Grant, Hub, Scope, hub_of


def _require(request: web.Request, scope: Scope) -> Hub:
    """Check the access token; a write token may also read."""
    hub = hub_of(request)
    if not hub.has_cas:
        raise HubError(404, "This server has no CAS")
    token = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
    held = hub.xet_tokens.scope(token)
    if held is None:
        raise HubError(401, "Unknown or expired access token")
    if scope == "write" and held == "read":
        raise HubError(403, "This access token is for reading only")
    return hub


async def chunk_probe(request: web.Request) -> web.Response:
    """Global deduplication: nothing is ever known."""
    _require(request, "read")
    raise HubError(404, "Chunk not found")


async def grant_xorb(request: web.Request) -> web.Response:
    hub = _require(request, "write")
    if not hub.settings.grants:
        raise HubError(404, "Not found")
    xorb = request.match_info["hash"]
    length = (await read_object(request)).get("length")
    if not isinstance(length, int) or length <= 0:
        raise bad_request("length is required")
    # The client takes 200 as "stored already" and then sends nothing.
    if hub.xet.has_xorb(xorb):
        return web.json_response({"was_inserted": False})
    grant = secrets.token_hex(16)
    hub.grants[grant] = Grant(xorb, length)
    answer = {"id": grant, "method": "PUT", "url": f"{hub.cdn}/xorb-uploads/{grant}", "headers": {}}
    return web.json_response(answer, status=201)


async def put_granted(request: web.Request) -> web.Response:
    """Take a xorb under a grant, whose id is the only credential."""
    hub = hub_of(request)
    name = request.match_info["grant"]
    grant = hub.grants.get(name)
    if grant is None:
        raise HubError(404, "Unknown grant")
    data = await request.read()
    if len(data) != grant.length_bytes:
        raise bad_request(f"The body has {len(data)} bytes, not {grant.length_bytes}")
    try:
        await asyncio.to_thread(hub.xet.stage_xorb, name, data)
    except ValueError as error:
        raise bad_request(str(error)) from error
    return web.Response(headers={"ETag": f'"{grant.xorb}"'})


async def commit_grant(request: web.Request) -> web.Response:
    hub = _require(request, "write")
    name, xorb = request.match_info["grant"], request.match_info["hash"]
    grant = hub.grants.get(name)
    if grant is None or grant.xorb != xorb:
        raise HubError(404, "Unknown grant")
    try:
        hub.xet.commit_staged(name, xorb)
    except FileNotFoundError as error:
        raise HubError(404, "Nothing was uploaded under this grant") from error
    del hub.grants[name]
    return web.json_response({"was_inserted": True})


async def post_xorb(request: web.Request) -> web.Response:
    hub = _require(request, "write")
    data = await request.read()
    try:
        inserted = await asyncio.to_thread(hub.xet.put_xorb, request.match_info["hash"], data)
    except ValueError as error:
        raise bad_request(str(error)) from error
    return web.json_response({"was_inserted": inserted})


async def _add_shard(request: web.Request) -> int:
    hub = _require(request, "write")
    shard = await request.read()
    try:
        return await asyncio.to_thread(hub.xet.add_shard, shard)
    except ValueError as error:
        raise bad_request(str(error)) from error


async def post_shard_v1(request: web.Request) -> web.Response:
    await _add_shard(request)
    return web.json_response({"result": 1})


async def post_shard_v2(request: web.Request) -> web.Response:
    count = await _add_shard(request)
    events: list[dict[str, Any]] = [
        {"type": "validating", "verified": count, "total": count},
        {"type": "committing", "stage": "uploading"},
        {"type": "result", "result": 1},
    ]
    body = "".join(json.dumps(event) + "\n" for event in events)
    return web.Response(text=body, content_type="application/x-ndjson")


def _plan(request: web.Request, hub: Hub) -> Plan:
    record = hub.xet.record(request.match_info["hash"])
    if record is None:
        raise HubError(404, "File not found")
    if not record.size_bytes:
        return plan(record, hub.xet.offsets)
    try:
        span = parse_range(request.headers.get("Range"), record.size_bytes)
    except Unsatisfiable as error:
        raise HubError(416, f"Range not satisfiable: {error}") from error
    return plan(record, hub.xet.offsets, span)


async def _wanted(request: web.Request) -> tuple[Plan, DataUrl]:
    hub = _require(request, "read")

    def data_url(xorb: str, first: int, last: int) -> str:
        # The range in the query makes every URL unique.
        return f"{hub.cdn}/xorb-data/{xorb}?range={first}-{last}"

    return await asyncio.to_thread(_plan, request, hub), data_url


async def reconstruct_v1(request: web.Request) -> web.Response:
    wanted, data_url = await _wanted(request)
    return web.json_response(wanted.as_v1(data_url))


async def reconstruct_v2(request: web.Request) -> web.Response:
    wanted, data_url = await _wanted(request)
    return web.json_response(wanted.as_v2(data_url))


async def telemetry(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(status=204)


def routes() -> list[web.RouteDef]:
    digest = "{hash:[0-9a-f]{64}}"
    grant = "{grant:[0-9a-f]+}"
    return [
        web.get(f"/v1/chunks/default/{digest}", chunk_probe),
        web.post(f"/v1/xorb-grants/default/{digest}", grant_xorb),
        web.put(f"/xorb-uploads/{grant}", put_granted),
        web.post(f"/v1/xorb-commits/default/{digest}/grant/{grant}", commit_grant),
        web.post(f"/v1/xorbs/default/{digest}", post_xorb),
        web.post("/v1/shards", post_shard_v1),
        web.post("/v2/shards", post_shard_v2),
        web.get(f"/v1/reconstructions/{digest}", reconstruct_v1),
        web.get(f"/v2/reconstructions/{digest}", reconstruct_v2),
        web.post("/v1/telemetry", telemetry),
    ]
