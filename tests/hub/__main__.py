"""`python -m tests.hub --root DIR`: a Hub to develop against offline."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from tests.hub.access import Role
from tests.hub.server import HubServer

_DEMO_TOKENS: tuple[tuple[str, Role], ...] = (("alice", "write"), ("alice", "read"), ("bob", "write"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.hub", description="A local Hub for tests and development.")
    parser.add_argument("--root", type=Path, required=True, help="folder for everything that is stored")
    parser.add_argument("--port", type=int, default=0, help="hub port (default: a free one)")
    parser.add_argument("--cdn-port", type=int, default=0, help="port of contents and the CAS (default: a free one)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON", help="a setting: latency_s=0.04")
    parser.add_argument("--child", action="store_true", help="print one line of JSON, and stop when stdin is closed")
    return parser.parse_args()


def _tokens(hub: HubServer) -> dict[str, str]:
    return {f"{user} ({role})": hub.token(user, role) for user, role in _DEMO_TOKENS}


def _announce(hub: HubServer, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"endpoint": hub.endpoint, "cdn": hub.cdn}), flush=True)
        return
    print(f"HF_ENDPOINT={hub.endpoint}\ncontents and CAS: {hub.cdn}")
    for owner, token in _tokens(hub).items():
        print(f"token of {owner}: {token}")
    print("Stop with Ctrl-C.", flush=True)


async def _run(arguments: argparse.Namespace) -> None:
    settings = {name: json.loads(value) for name, _, value in (item.partition("=") for item in arguments.set)}
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if arguments.child:
        # The parent never writes: readable means closed, so the server never outlives it.
        loop.add_reader(sys.stdin.fileno(), stop.set)
    async with HubServer(arguments.root, port=arguments.port, cdn_port=arguments.cdn_port, **settings) as hub:
        _announce(hub, arguments.child)
        await stop.wait()


def main() -> int:
    try:
        asyncio.run(_run(_arguments()))
    except (OSError, ValueError) as error:
        print(f"tests.hub: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
