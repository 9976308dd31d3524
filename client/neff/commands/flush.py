"""`neff flush`: send now what waits for upload."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

from neff import exitcodes
from neff.commands.arguments import seconds
from neff.commands.session import ANSWER_S, WAITS, fields, number, objects, session, status_of, texts
from neff.connection import Connection
from neff.errors import DaemonError, LostError, SilentError
from neff.patience import SilencePatience
from neff.protocol import Message

HELP = "send what waits for upload, without its quiet time"

_DEFAULT_TIMEOUT_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        metavar="S",
        type=seconds,
        default=_DEFAULT_TIMEOUT_S,
        help="how long to wait at most (default: %(default)g); what is left then stays in the daemon's queue",
    )


def run(args: argparse.Namespace) -> int:
    # The daemon keeps the time; the margin only guards against one that hangs.
    patience = SilencePatience(WAITS.now_s(), math.inf, args.timeout + ANSWER_S)
    last: Message = {}
    with session(args) as connection:
        try:
            for answer in connection.answers("flush", {"timeout_s": args.timeout}, patience):
                last = answer
        except SilentError:
            print("still waiting for upload: the daemon did not finish in time, and does not say how much is left")
            return exitcodes.PENDING
        pending = number(last.get("pending"))
        if pending is None:
            raise LostError("garbage", f"the daemon at {connection.path} did not say what is left")
        where = list(_where(connection)) if pending else []
    return _report(last, pending, where)


def _where(connection: Connection) -> Iterator[str]:
    """What waits for each remote, and why; nothing if the daemon does not tell."""
    try:
        remotes = objects(status_of(connection).get("remotes"))
    except DaemonError:
        return
    for remote in remotes:
        waiting = number(fields(remote.get("journal")).get("waiting"))
        if waiting:
            name, reason = texts(remote, "name", "reason")
            yield f"{waiting:.0f} still waiting for {name}" + (f": {reason}" if remote.get("reason") else "")


def _report(answer: Message, pending: float, where: list[str]) -> int:
    parked = objects(answer.get("parked"))
    for item in parked:
        name, remote, reason = texts(item, "name", "remote", "reason")
        print(f"parked    {name} for {remote}: {reason}")
    if pending:
        for line in where or [f"{pending:.0f} still waiting for upload"]:
            print(f"{line}; the daemon goes on")
        return exitcodes.PENDING
    print("nothing waits for upload" + (f", {len(parked)} parked" if parked else ""))
    return exitcodes.FAILED if parked else exitcodes.OK
