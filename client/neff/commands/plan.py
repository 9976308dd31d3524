"""`neff plan`: will this run compile?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from neff import exitcodes
from neff.cachedir import cache_root
from neff.commands import ingredients
from neff.commands.documents import add_json, print_json
from neff.commands.session import ANSWER_S, WAITS, fields, number, session, strings
from neff.commands.status import megabytes
from neff.connection import Connection
from neff.errors import LostError
from neff.keys import is_run_key
from neff.patience import SilencePatience
from neff.protocol import Message, safe_text

HELP = "tell whether a run will compile, from what earlier runs used"
JSON = {
    "run": "key, ingredients (what the key is the digest of), private",
    "plan": "state (warm, fetchable, will-compile or unknown), modules, local, remote, missing (how many), "
    "remote_bytes, fetch_s, compile_s (null where nobody knows), sure (same-key, same-model or none), differs "
    "(ingredients in which the nearest recorded run differs), unsaid (ingredients that it has and the question does "
    "not: the answer holds for its values of them), from (where it is known from), away (remotes that could "
    "not be asked), names (of the modules, "
    "the first 1,000)",
}
# Wrong use is told by another number than everywhere else, where 2 is an answer.
USAGE_CODE = exitcodes.PLAN_USAGE

_CODES = {
    "warm": exitcodes.OK,
    "fetchable": exitcodes.FETCHABLE,
    "will-compile": exitcodes.WILL_COMPILE,
    "unknown": exitcodes.UNKNOWN,
}
_MANY = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    ingredients.add_arguments(parser)
    parser.add_argument("--run", metavar="KEY", type=run_key, help="a run key, in place of the model")
    add_json(parser)
    parser.epilog = (
        "Example: neff plan --model meta-llama/Llama-3.1-8B --batch_size 1 --sequence_length 4096. "
        f"Exit codes: {exitcodes.OK} warm, {exitcodes.FETCHABLE} fetchable, {exitcodes.WILL_COMPILE} will compile, "
        f"{exitcodes.UNKNOWN} no run like it was recorded; {exitcodes.FAILED} failed, "
        f"{exitcodes.UNREACHABLE} no daemon, {exitcodes.PENDING} no answer in time, {exitcodes.PLAN_USAGE} wrong use, "
        f"{exitcodes.INTERRUPTED} interrupted"
    )


def run(args: argparse.Namespace) -> int:
    try:
        asked = asked_run(args)
    except ValueError as error:
        print(f"neff: {safe_text(error)}", file=sys.stderr)
        return exitcodes.FAILED
    if asked is None:
        print("neff plan: error: which run? --model, --config or --run says it", file=sys.stderr)
        return exitcodes.PLAN_USAGE
    with session(args, cache_root()) as connection:
        plan = _plan(connection, asked)
    if args.json:
        print_json("plan", run=asked, plan=plan)
    else:
        print("\n".join([*described(plan), *_unknown_here(plan, asked)]))
        print(f"  run key: {asked['key']}")
    return _CODES[str(plan["state"])]


def asked_run(args: argparse.Namespace) -> Message | None:
    """The run that the arguments mean, as the daemon is told; None where they mean none. Raises ValueError."""
    from neff.runs.marker import Run, bounded

    if args.run is not None:
        return Run(args.run, None, None, True).message()
    if not ingredients.is_named(args):
        return None
    found = ingredients.of_arguments(args)
    return bounded(Run(found.key, None, found.ingredients, found.is_private)).message()


def run_key(text: str) -> str:
    """A run key, for argparse."""
    if is_run_key(text):
        return text
    raise argparse.ArgumentTypeError(f"not a run key: {text!r} (expected RUN_ and 32 hexadecimal digits)")


def described(plan: Message) -> Iterator[str]:
    """The plan in words."""
    yield _sentence(plan)
    differs, sources = strings(plan.get("differs")), strings(plan.get("from"))
    if plan.get("sure") == "same-key":
        yield "  sure: runs with this very key used these modules"
    elif plan.get("sure") == "same-model":
        yield f"  not sure: the nearest recorded run of the model differs in {', '.join(differs) or 'nothing told'}"
    if left_open := strings(plan.get("unsaid")):
        yield f"  not said here: {', '.join(name.rpartition('.')[2] for name in left_open)}"
    yield from unasked(plan)
    if sources:
        more = f" and {len(sources) - _MANY} more" if len(sources) > _MANY else ""
        yield f"  from: {', '.join(sources[:_MANY])}{more}"


def unasked(plan: Message) -> Iterator[str]:
    """Who may know of more."""
    if away := strings(plan.get("away")):
        yield f"  could not be asked, or not to the end: {', '.join(away)}"


def _unknown_here(plan: Message, asked: Message) -> Iterator[str]:
    """What cannot be seen here and makes another run key of the same job."""
    known = fields(asked.get("ingredients"))
    missing = [name for name in ("compiler", "target") if not known.get(name)]
    if plan["state"] == "unknown" and known and missing:
        yield f"  not known here: {' and '.join(missing)}; ask where the job runs, or say --{' and --'.join(missing)}"


def _plan(connection: Connection, asked: Message) -> Message:
    for answer in connection.answers("plan", {"run": asked}, SilencePatience(WAITS.now_s(), ANSWER_S)):
        plan = fields(answer.get("plan"))
        if str(plan.get("state")) in _CODES:
            return plan
    raise LostError("garbage", f"the daemon at {connection.path} sent no plan")


def _sentence(plan: Message) -> str:
    modules, remote, missing = (int(number(plan.get(name)) or 0) for name in ("modules", "remote", "missing"))
    if plan["state"] == "warm":
        all_of_them = "the one graph is" if modules == 1 else f"all {_graphs(modules)} are"
        return f"warm: {all_of_them} in the cache directory"
    if plan["state"] == "fetchable":
        size_bytes = number(plan.get("remote_bytes"))
        size = "" if size_bytes is None else f", {megabytes(size_bytes)}"
        return f"fetchable in about {_about(plan.get('fetch_s'))}: {remote} of {_graphs(modules)}{size}"
    if plan["state"] == "will-compile":
        return f"will compile about {_graphs(missing)}, about {_about(plan.get('compile_s'))} by recorded compile times"
    return "nobody can tell: no run like it was recorded, here or on a remote"


def _graphs(count: int) -> str:
    return f"{count} graph{'' if count == 1 else 's'}"


def _about(seconds: object) -> str:
    from neff.launch.counts import duration

    known = number(seconds)
    return "?" if known is None else duration(max(known, 1.0), roughly=True)
