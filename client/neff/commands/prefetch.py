"""`neff prefetch`: have modules brought into the cache directory before a run needs them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from neff import exitcodes
from neff.commands.session import ANSWER_S, WAITS, session, texts
from neff.connection import Connection
from neff.keys import is_module_key, parse_module_name
from neff.patience import SilencePatience
from neff.protocol import ABSENT, FETCHING, READY, Message

HELP = "bring modules into the cache directory"

# While it fetches, the daemon says so every second. A slow download is for it to give up, or for Ctrl-C.
_SILENCE_S = 30.0
# The longest names that are possible, this many, fit into one message.
_NAMES_PER_REQUEST = 500
# Reasons that say "nobody has it" rather than "it could not be had".
_NOT_FOUND = frozenset({"not-on-remotes", "no-remotes", "ambiguous-namespace"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        action="store_true",
        help=f"until all are there or cannot be had; ends when the daemon says nothing for {_SILENCE_S:.0f} s",
    )
    parser.add_argument(
        "keys", metavar="KEY", nargs="+", type=_key, help="<namespace>/<module key>, or the module key alone"
    )


def run(args: argparse.Namespace) -> int:
    states: dict[str, Message] = {}
    with session(args) as connection:
        for answer in _answers(connection, list(dict.fromkeys(args.keys)), args.wait):
            name, state = answer.get("name"), answer.get("state")
            if isinstance(name, str) and name in args.keys and state in (READY, ABSENT, FETCHING):
                _report(states.get(name), answer)
                states[name] = answer
    return _exit_code([states.get(name, {}) for name in args.keys], args.wait)


def _answers(connection: Connection, names: Sequence[str], wait: bool) -> Iterator[Message]:
    for start in range(0, len(names), _NAMES_PER_REQUEST):
        fields = {"names": names[start : start + _NAMES_PER_REQUEST], "wait": wait}
        patience = SilencePatience(WAITS.now_s(), _SILENCE_S if wait else ANSWER_S)
        yield from connection.answers("prefetch", fields, patience)


def _report(before: Message | None, answer: Message) -> None:
    """One line for every change of state; progress in between would only scroll."""
    if before is not None and before.get("state") == answer.get("state"):
        return
    name, state, source, reason = texts(answer, "name", "state", "source", "reason")
    if state == ABSENT:
        print(f"absent    {name}: {reason}")
    elif state == READY:
        print(f"ready     {name}" + (f" from {source}" if answer.get("source") else ""))
    else:
        print(f"fetching  {name}")
    sys.stdout.flush()


def _exit_code(answers: Sequence[Message], wait: bool) -> int:
    good = (READY,) if wait else (READY, FETCHING)
    bad = [answer for answer in answers if answer.get("state") not in good]
    if not bad:
        return exitcodes.OK
    if all(answer.get("state") == ABSENT and answer.get("reason") in _NOT_FOUND for answer in bad):
        return exitcodes.NOT_FOUND
    if all(answer.get("state") == FETCHING for answer in bad):
        return exitcodes.PENDING
    return exitcodes.FAILED


def _key(text: str) -> str:
    if is_module_key(text):
        return text
    try:
        return str(parse_module_name(text))
    except ValueError:
        expected = "expected MODULE_<hlo>+<flags>, or neuronxcc-<version>/ before it"
        raise argparse.ArgumentTypeError(f"{text!r}: {expected}") from None
