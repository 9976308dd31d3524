"""`neff prefetch`: have modules brought into the cache directory before a run needs them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from neff import exitcodes
from neff.commands import ingredients
from neff.commands.arguments import add_option, positive
from neff.commands.documents import add_json, print_json
from neff.commands.plan import asked_run, run_key, unasked
from neff.commands.session import ANSWER_S, WAITS, fields, number, session, strings, texts
from neff.connection import Connection
from neff.errors import RefusedError
from neff.keys import is_module_key, parse_module_name
from neff.patience import SilencePatience
from neff.protocol import ABSENT, FETCHING, READY, Message, safe_text

HELP = "bring modules into the cache directory"
JSON = {
    "plan": "of a run or compiler: modules (how many are known to be needed), sure (same-key, same-model or none; "
    "same-key for a compiler), from (where it is known from; empty for a compiler), away (remotes that could not be "
    "asked, or not to the end)",
    "modules": "name, state (ready, fetching or absent; null where the daemon did not say), source (the remote it came "
    "from, or null), reason (why it is absent, or null)",
}

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
        "keys", metavar="KEY", nargs="*", type=_key, help="<namespace>/<module key>, or the module key alone"
    )
    parser.add_argument("--run", metavar="KEY", type=run_key, help="in place of keys: what runs of this key used")
    ingredients.add_arguments(
        parser, "of neuronx-cc (default: the one installed); alone, in place of keys: all that remotes hold for it"
    )
    add_option(
        parser,
        "max_bytes",
        metavar="N",
        type=positive,
        help="of a run or compiler: so many bytes at most",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    try:
        asked = _asked(args)
    except ValueError as error:
        print(f"neff: {safe_text(error)}", file=sys.stderr)
        return exitcodes.FAILED
    if asked is None:
        print("neff prefetch: error: what? Either keys, --run, --model or --compiler says it", file=sys.stderr)
        return exitcodes.USAGE
    states: dict[str, Message] = {name: {} for name in args.keys}
    plan: Message | None = None
    with session(args) as connection:
        for answer in _answers(connection, asked, args.wait):
            plan = plan if answer.get("plan") is None else fields(answer["plan"])
            name, state = answer.get("name"), answer.get("state")
            is_meant = isinstance(name, str) and (name in states or not args.keys)
            if is_meant and state in (READY, ABSENT, FETCHING):
                if not args.json:
                    _report(states.get(str(name)), answer)
                states[str(name)] = answer
    if args.json:
        modules = [_document(name, answer) for name, answer in states.items()]
        print_json("prefetch", modules=modules, **({} if plan is None else {"plan": plan}))
    else:
        for line in _known(plan, is_told=bool(states)):
            print(line)
    if states or _count(plan):
        return _exit_code(list(states.values()), args.wait)
    return exitcodes.FAILED if strings(fields(plan).get("away")) else exitcodes.NOT_FOUND


def _asked(args: argparse.Namespace) -> list[Message] | None:
    """The requests' fields; None where the arguments do not say one thing. Raises ValueError."""
    ways = [bool(args.keys), args.run is not None, ingredients.is_named(args)]
    if sum(ways) > 1:
        return None
    if args.keys:
        names = list(dict.fromkeys(args.keys))
        return [{"names": names[at : at + _NAMES_PER_REQUEST]} for at in range(0, len(names), _NAMES_PER_REQUEST)]
    limit = {} if args.max_bytes is None else {"max_bytes": args.max_bytes}
    if any(ways):
        return [{"run": asked_run(args), **limit}]
    return None if args.compiler is None else [{"compiler": args.compiler, **limit}]


def _answers(connection: Connection, asked: Sequence[Message], wait: bool) -> Iterator[Message]:
    for request in asked:
        if "names" not in request and "plan" not in connection.capabilities:
            raise RefusedError(
                "unsupported", f"the daemon at {connection.path} knows nothing of runs: another version?"
            )
        patience = SilencePatience(WAITS.now_s(), _SILENCE_S if wait else ANSWER_S)
        yield from connection.answers("prefetch", {**request, "wait": wait}, patience)


def _report(before: Message | None, answer: Message) -> None:
    """One line for every change of state; progress in between would only scroll."""
    if before is not None and before.get("state") == answer.get("state"):
        return
    name, state, source, reason = texts(answer, "name", "state", "source", "reason")
    if state == ABSENT:
        line = f"absent    {name}: {reason}"
    elif state == READY:
        line = f"ready     {name}" + (f" from {source}" if answer.get("source") else "")
    else:
        line = f"fetching  {name}"
    print(line, flush=True)


def _count(plan: Message | None) -> int:
    return int(number((plan or {}).get("modules")) or 0)


def _known(plan: Message | None, *, is_told: bool) -> Iterator[str]:
    """What is known of a run or compiler; `is_told`: its modules were shown, one by one."""
    count = _count(plan)
    if count and not is_told:  # nobody waits for them
        yield f"{count} modules: those that are not here are being brought"
    elif not is_told:
        yield "nothing is known to be brought"
    yield from unasked(fields(plan))


def _document(name: str, answer: Message) -> Message:
    return {"name": name, **{field: answer.get(field) for field in ("state", "source", "reason")}}


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
