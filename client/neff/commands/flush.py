"""`neff flush`: send now what waits for upload."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

from neff import exitcodes
from neff.commands.arguments import seconds
from neff.commands.documents import add_json, print_json
from neff.commands.session import ANSWER_S, WAITS, fields, number, objects, session, status_of, texts
from neff.connection import Connection
from neff.errors import DaemonError, LostError, SilentError
from neff.patience import SilencePatience
from neff.protocol import Message

HELP = "send what waits for upload, without its quiet time"
JSON = {
    "pending": "number of entries that still wait; null where the daemon did not say it in time",
    "waiting": "those by remote, where the daemon tells: remote, entries (their number), reason (why, or null)",
    "parked": "name, remote and reason of entries that are not sent, the first 300",
    "parked_count": "their number; null where the daemon did not say it in time",
}

_DEFAULT_TIMEOUT_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        metavar="S",
        type=seconds,
        default=_DEFAULT_TIMEOUT_S,
        help="how long to wait at most (default: %(default)g); what is left then stays in the daemon's queue",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    # The daemon keeps the time; the margin only guards against one that hangs.
    patience = SilencePatience(WAITS.now_s(), math.inf, args.timeout + ANSWER_S)
    last: Message = {}
    with session(args) as connection:
        try:
            for answer in connection.answers("flush", {"timeout_s": args.timeout}, patience):
                last = answer
        except SilentError:
            return _unknown(args)
        pending = number(last.get("pending"))
        if pending is None:
            raise LostError("garbage", f"the daemon at {connection.path} did not say what is left")
        waiting = list(_waiting(connection)) if pending else []
    parked = [
        dict(zip(("name", "remote", "reason"), texts(item, "name", "remote", "reason"), strict=True))
        for item in objects(last.get("parked"))
    ]
    parked_count = int(number(last.get("parked_count")) or len(parked))
    if args.json:
        print_json("flush", pending=int(pending), waiting=waiting, parked=parked, parked_count=parked_count)
    else:
        _print(int(pending), waiting, parked, parked_count)
    if pending:
        return exitcodes.PENDING
    return exitcodes.FAILED if parked else exitcodes.OK


def _unknown(args: argparse.Namespace) -> int:
    if args.json:
        print_json("flush", pending=None, waiting=[], parked=[], parked_count=None)
    else:
        print("still waiting for upload: the daemon did not finish in time, and does not say how much is left")
    return exitcodes.PENDING


def _waiting(connection: Connection) -> Iterator[Message]:
    """What waits for each remote, and why; nothing if the daemon does not tell."""
    try:
        remotes = objects(status_of(connection).get("remotes"))
    except DaemonError:
        return
    for remote in remotes:
        entries = number(fields(remote.get("journal")).get("waiting"))
        if entries:
            name, reason = texts(remote, "name", "reason")
            yield {"remote": name, "entries": int(entries), "reason": reason if remote.get("reason") else None}


def _print(pending: int, waiting: list[Message], parked: list[dict[str, str]], parked_count: int) -> None:
    for item in parked:
        print(f"parked    {item['name']} for {item['remote']}: {item['reason']}")
    if parked_count > len(parked):
        print(f"parked    and {parked_count - len(parked)} more")
    for item in waiting:
        why = f": {item['reason']}" if item["reason"] else ""
        print(f"{item['entries']} still waiting for {item['remote']}{why}; the daemon goes on")
    if pending and not waiting:
        print(f"{pending} still waiting for upload; the daemon goes on")
    if not pending:
        print("nothing waits for upload" + (f", {parked_count} parked" if parked else ""))
