"""`neff lookup`: for which shapes a model is compiled, from the registry of a cache repo."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from neff import exitcodes
from neffd.commands.options import add_json, add_option, add_repo_id, positive

if TYPE_CHECKING:
    from neffd.commands.searching import Answer
    from neffd.runs.documents import Found
    from neffd.runs.neuronhash import HashedRun

EXAMPLE = "neff lookup meta-llama/Llama-3.1-8B-Instruct --batch_size 4"
JSON = {
    "model": "as it was asked for",
    "repo_id": "the cache repo",
    "searched": "the compiler versions that were searched, the newest first",
    "guess": "why the model's configuration may not be the one that optimum-neuron hashes, or null",
    "entries": "task, batch_size, num_cores, auto_cast_type, sequence_length, compiler_type, compiler_version, "
    "checkpoint_id, checkpoint_revision, target (null where an entry does not say); optimum_neuron (the version that "
    "wrote it), mode, model_id, model_type, namespace, hash, neuron (all that it says), same_shape (entries like it)",
    "trained": "runs of the oldest registry: compiler_version, model_id, model_hash, neuron_hash, precision, "
    "num_cores, input_shapes",
}

# As optimum-neuron names them.
_INSTANCE_TYPES = ("trn1", "inf2", "trn1n", "trn2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL_OR_PATH", help="a model on the Hub, or a folder with its config.json")
    parser.add_argument("--task", help="only entries of this task, such as text-generation")
    add_option(parser, "instance_type", choices=_INSTANCE_TYPES, help="only entries for this instance type")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), help="only entries of this data type")
    add_option(parser, "tensor_parallel_size", metavar="N", type=positive, help="only entries for so many cores")
    add_option(parser, "batch_size", metavar="N", type=positive, help="only entries of this batch size")
    add_option(parser, "sequence_length", metavar="N", type=positive, help="only entries of this sequence length")
    add_repo_id(parser, "the one set, else aws-neuron/optimum-neuron-cache")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from neffd.commands import hub, searching

    repo_id = hub.repo_to_read(args.repo_id)
    model = searching.model_in(args.model, args.task) or args.model
    answer = hub.run_async(searching.search_registry(repo_id, model, args.task))
    selected = [found for found in answer.found if _is_selected(found, args)]
    answer.hashed = [run for run in answer.hashed if _is_trained_for(run, args)]
    _print(args, repo_id, answer, selected)
    return exitcodes.OK if selected or answer.hashed else exitcodes.NOT_FOUND


def _is_selected(found: Found, args: argparse.Namespace) -> bool:
    from neffd.runs.documents import dtype_name
    from neffd.runs.entries import MULTI

    facts = found.facts
    wanted = {
        # A pipeline's entry is for all its tasks, and names none.
        "task": None if found.entry.entry_class == MULTI else args.task,
        "target": args.instance_type,
        "num_cores": args.tensor_parallel_size,
        "batch_size": args.batch_size,
        "sequence_length": args.sequence_length,
    }
    same = all(facts[name] == value for name, value in wanted.items() if value is not None)
    return same and args.dtype in (None, dtype_name(facts["auto_cast_type"]))


def _is_trained_for(run: HashedRun, args: argparse.Namespace) -> bool:
    """The oldest registry tells of precision and cores only."""
    from neffd.runs.documents import dtype_name

    names = ("task", "instance_type", "batch_size", "sequence_length")
    unknown = any(getattr(args, name) is not None for name in names)
    same_cores = args.tensor_parallel_size in (None, run.num_cores)
    return not unknown and same_cores and args.dtype in (None, dtype_name(run.precision))


def _print(args: argparse.Namespace, repo_id: str, answer: Answer, selected: list[Found]) -> None:
    from neffd.commands import output

    shown = _distinct(selected)
    if args.json:
        output.print_json(
            "lookup",
            model=args.model,
            repo_id=repo_id,
            searched=answer.searched,
            guess=answer.guess or None,
            entries=[_document(*item) for item in shown],
            trained=[vars(run) for run in answer.hashed],
        )
        return
    _print_notes(args, answer)
    if not selected and not answer.hashed:
        _print_nothing(args, repo_id, answer)
    elif output.is_terminal():
        print(output.title(f"*** {_entries(len(shown) + len(answer.hashed))} found in {repo_id} for {args.model} ***"))
        for facts in [*(_facts(*item) for item in shown), *map(vars, answer.hashed)]:
            print("", *output.block(facts), sep="\n")
    else:
        for facts in [*(_facts(*item) for item in shown), *map(vars, answer.hashed)]:
            print(output.line(facts))


def _print_notes(args: argparse.Namespace, answer: Answer) -> None:
    import sys

    from neff.protocol import safe_text

    if answer.guess:
        note = f"neff: {answer.guess}: defaults could not be left out of the configuration as optimum-neuron does;"
        print(note, "entries of the same architecture under other names may be missed", file=sys.stderr)
    for path in answer.unreadable:
        print(f"neff: left out, not of the registry's format: {safe_text(path)}", file=sys.stderr)


def _print_nothing(args: argparse.Namespace, repo_id: str, answer: Answer) -> None:
    import sys

    names = ("task", "instance_type", "dtype", "tensor_parallel_size", "batch_size", "sequence_length")
    given = [f"--{name} {getattr(args, name)}" for name in names if getattr(args, name) is not None]
    others = f"; {_entries(len(answer.found))} with other values" if answer.found else ""
    print(f"No cached entries found for {args.model} in {repo_id}{others}.", file=sys.stderr)
    print(f"  compilers searched: {', '.join(answer.searched) or 'none: the repo has no registry'}", file=sys.stderr)
    if given:
        print(f"  only with: {' '.join(given)}", file=sys.stderr)


def _distinct(selected: list[Found]) -> list[tuple[Found, int]]:
    """Those that optimum-neuron's table would show as one row, as one, with their number; sorted."""
    from neffd.runs.documents import newest_first

    groups: dict[tuple[Any, ...], list[Found]] = {}
    for found in sorted(selected, key=newest_first):
        groups.setdefault(found.shape, []).append(found)
    return [(group[0], len(group)) for group in groups.values()]


def _facts(found: Found, count: int) -> dict[str, Any]:
    facts = found.facts | {"optimum_neuron": found.path.version, "mode": found.path.mode}
    return facts | ({"same_shape": count} if count > 1 else {})


def _document(found: Found, count: int) -> dict[str, Any]:
    return found.facts | {
        "optimum_neuron": found.path.version,
        "mode": found.path.mode,
        "model_id": found.entry.model_id,
        "model_type": found.entry.model_type,
        "namespace": found.path.namespace,
        "hash": found.path.hash,
        "neuron": found.entry.neuron,
        "same_shape": count,
    }


def _entries(count: int) -> str:
    return f"{count} entry" if count == 1 else f"{count} entries"
