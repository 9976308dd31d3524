"""`neff add`: compile what a model or a command needs, and see to it that the cache repo has all of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

from neff import exitcodes
from neffd.commands.options import add_option, add_repo_id, positive

if TYPE_CHECKING:
    from neffd.commands.adding import Added
    from neffd.commands.addplace import Place
    from neffd.commands.training import Session

EXAMPLE = "neff add --model org/model -- torchrun --nproc_per_node 32 train.py"
JSON = {
    "model": "as it was given, or null",
    "argv": "the command that was run",
    "command_exit_code": "of the command; where it is not 0, `neff add` ends with it, else with a code of its own",
    "through": "`daemon` if one serves the directory, else `own`",
    "cache_dir": "the cache directory",
    "remotes": "name and url of those that should have the modules",
    "modules": "what the command looked for: name, root (the cache directory), met (local, fetched, compiled, missed)",
    "lacking": "name, remote, reason of what is not there; null where a signal ended the command: then nobody looked",
    "registry": "number of optimum-neuron's registry files that were sent, or null where that was not possible",
}
EXIT_CODES = "; where the command fails, the command's own, 128 and the signal's number if one ended it: "
EXIT_CODES += "command_exit_code of --json tells whose it is"
USAGE = (
    "neff add -m MODEL --task TASK --train_batch_size N [--eval_batch_size N] [--sequence_length N] "
    "[--encoder_sequence_length N --decoder_sequence_length N] [--gradient_accumulation_steps N] --precision {fp,bf16} "
    "--num_cores {1..32} [--max_steps N] [options]\n       neff add [-m MODEL] [options] -- COMMAND [ARGUMENT ...]"
)
_SESSION = ("task", "train_batch_size", "precision", "num_cores")
_DTYPES = {"fp": "float32", "bf16": "bfloat16"}
_SIZES = {
    "train_batch_size": "examples a core and step",
    "eval_batch_size": "examples a core of an evaluation, where optimum-neuron can evaluate",
    "sequence_length": "tokens of an example",
    "encoder_sequence_length": "tokens for the encoder, of a model that has one",
    "decoder_sequence_length": "tokens for its decoder",
    "gradient_accumulation_steps": "batches before the weights change (default: 1)",
    "max_steps": "how long the session is (default: 10)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from neffd.commands.training import MAX_CORES

    parser.usage = USAGE
    parser.add_argument("-m", "--model", metavar="MODEL", help="the model, on the Hub or a folder")
    parser.add_argument("--task", help="what it is trained for, such as text-classification")
    for name, meaning in _SIZES.items():
        add_option(parser, name, metavar="N", type=positive, help=meaning)
    parser.add_argument("--precision", choices=("fp", "bf16"), help="of the training")
    add_option(
        parser,
        "num_cores",
        metavar=f"{{1..{MAX_CORES}}}",
        type=int,
        choices=range(1, MAX_CORES + 1),
        help="Neuron cores, each with a process of its own",
    )
    parser.add_argument(
        "--python", metavar="PATH", help="interpreter of the environment with optimum-neuron (default: python3)"
    )
    add_repo_id(parser, "the one that is set, else all that the daemon writes")
    add_option(parser, "allow_public", action="store_true", help="also send to a repo that everybody can read")
    parser.add_argument(
        "--json", action="store_true", help="at the end one JSON document; what the command prints goes to stderr"
    )
    parser.set_defaults(argv=[])


def run(args: argparse.Namespace) -> int:
    session = None if args.argv else _session(args)
    from neffd.commands.addplace import place

    options = {"allow_public": args.allow_public, "session": session, "python": args.python}
    with place(args.repo_id, args.socket, **options) as at:
        from neffd.commands import adding

        argv = args.argv or at.training
        added = adding.add(at, argv, _named(args), as_json=args.json)
    _print(args, at, argv, added)
    if added.exit_code:
        return added.exit_code
    return exitcodes.OK if added.modules and not added.lacking else exitcodes.INCOMPLETE


def _session(args: argparse.Namespace) -> Session:
    """What the guide's form asks for; SystemExit where something is missing."""
    from neffd.commands.training import Session

    missing = [f"--{name}" for name in ("model", *_SESSION) if getattr(args, name) is None]
    if missing:
        _wrong(f"without a command after --, also needed: {', '.join(missing)}")
    given = {name: getattr(args, name) for name in ("model", "task", "precision", "num_cores", *_SIZES)}
    session = Session(**{name: value for name, value in given.items() if value is not None})
    if problem := session.problem():
        _wrong(problem)
    return session


def _named(args: argparse.Namespace) -> list[str]:
    """What the run is of, as options of `neff run`: it is recorded under the key that they give."""
    if args.model is None:
        return []
    named = {
        "model": args.model,
        "task": args.task,
        "batch_size": args.train_batch_size,
        "sequence_length": args.sequence_length,
        "dtype": _DTYPES.get(args.precision),
        "python": args.python,
    }
    others = ("encoder_sequence_length", "decoder_sequence_length", "gradient_accumulation_steps")
    sizes = {"data_parallel_size": args.num_cores, **{name: getattr(args, name) for name in others}}
    words = [f"--{name}={value}" for name, value in named.items() if value is not None]
    return words + [f"--size={name}={value}" for name, value in sizes.items() if value is not None]


def _wrong(problem: str) -> NoReturn:
    print(f"usage: {USAGE}\nneff add: error: {problem}", file=sys.stderr)
    sys.exit(exitcodes.USAGE)


def _print(args: argparse.Namespace, at: Place, argv: list[str], added: Added) -> None:
    from neffd.commands import output

    if args.json:
        output.print_json(
            "add",
            model=args.model,
            argv=argv,
            command_exit_code=added.exit_code,
            through=at.through,
            cache_dir=str(at.root),
            remotes=[{"name": remote.remote, "url": remote.url} for remote in at.remotes],
            modules=added.modules,
            lacking=None if added.lacking is None else [vars(item) for item in added.lacking],
            registry=added.registry,
        )
        return
    for line in _lines(at, added):
        print(line, file=sys.stderr)


def _lines(at: Place, added: Added) -> Iterator[str]:
    from neff.commands.reasons import explained
    from neff.protocol import safe_text

    if added.exit_code:
        yield f"neff: the command failed with exit code {added.exit_code}"
    if added.lacking is None:
        yield "neff: what it compiled may be on its way; nobody looked"
        return
    if not added.modules:
        if not added.exit_code:
            yield "neff: no graph was met: did the command compile for Neuron, in a Python that reads PYTHONPATH?"
        return
    for item in added.lacking:
        yield f"neff: {safe_text(item.name)} is not on {safe_text(item.remote)}: {explained(item.reason)}"
    if any(item.reason == "public-repo" for item in added.lacking):
        yield "  mend it: make the repo private, or say --allow_public (to a daemon: `allow_public: true`)"
    for remote in at.remotes:
        count = len(added.modules)
        missing = sum(item.remote == remote.remote for item in added.lacking)
        has = (
            f"{count - missing} of {count} modules"
            if missing
            else f"all {count} modules"
            if count > 1
            else "the module"
        )
        yield f"neff: {safe_text(remote.url)} has {has}"
