"""Who am I, and the small calls around the account."""

from __future__ import annotations

from aiohttp import web

from tests.hub.access import require_login
from tests.hub.state import caller_of


async def whoami(request: web.Request) -> web.Response:
    caller = caller_of(request)
    user = require_login(caller)
    return web.json_response(
        {
            "type": "user",
            "id": user,
            "name": user,
            "fullname": user.title(),
            "isPro": False,
            "orgs": [],
            "auth": {
                "type": "access_token",
                "accessToken": {"displayName": f"{user} {caller.role}", "role": caller.role},
            },
        }
    )


async def agent_harnesses(request: web.Request) -> web.Response:
    return web.json_response({"agents": []})


async def validate_yaml(request: web.Request) -> web.Response:
    return web.json_response({"errors": [], "warnings": []})


def routes() -> list[web.RouteDef]:
    return [
        web.get("/api/whoami-v2", whoami),
        web.get("/api/agent-harnesses", agent_harnesses),
        web.post("/api/validate-yaml", validate_yaml),
    ]
