"""`neff flush`: send now what waits for upload."""

from __future__ import annotations

import argparse
import math

from neff import exitcodes
from neff.commands.session import ANSWER_S, WAITS, number, objects, session, texts
from neff.errors import LostError, SilentError
from neff.patience import SilencePatience
from neff.protocol import Message

HELP = "send what waits for upload, without its quiet time"

_DEFAULT_TIMEOUT_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        metavar="S",
        type=_seconds,
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
        if number(last.get("pending")) is None:
            raise LostError("garbage", f"the daemon at {connection.path} did not say what is left")
    return _report(last)


def _report(answer: Message) -> int:
    pending = number(answer.get("pending")) or 0
    parked = objects(answer.get("parked"))
    for item in parked:
        name, remote, reason = texts(item, "name", "remote", "reason")
        print(f"parked    {name} for {remote}: {reason}")
    if pending:
        print(f"{pending:.0f} still waiting for upload; the daemon goes on")
        return exitcodes.PENDING
    print("nothing waits for upload" + (f", {len(parked)} parked" if parked else ""))
    return exitcodes.FAILED if parked else exitcodes.OK


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"not a number of seconds between 0 and 86400: {text!r}")
    return value
