"""Arguments that say which run is meant, the same as those of `neff.session`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from neff.commands.arguments import add_option, positive, spellings

if TYPE_CHECKING:
    from neff.runs.ingredients import Described

_SIZES = ("batch_size", "sequence_length", "tensor_parallel_size", "pipeline_parallel_size")
_TEXTS = ("model", "config", "task", "dtype", "compiler", "target", "flags")
_NAMES = (*_TEXTS, *_SIZES, "num_cores", "size", "python")
# Spellings whose next word is their value.
WITH_VALUE = frozenset(spelling for name in _NAMES for spelling in spellings(name))


def add_arguments(
    parser: argparse.ArgumentParser, compiler_help: str = "of neuronx-cc (default: the one installed)"
) -> None:
    """Give the options to a command."""
    parser.add_argument(
        "--model", help="a folder with config.json, that file, or a model whose config.json is in the Hub's cache here"
    )
    parser.add_argument("--config", metavar="PATH", help="another config.json than the model's own")
    parser.add_argument("--task", help="such as text-generation")
    add_option(parser, "batch_size", metavar="N", type=sizes, help="batch size; several with commas")
    add_option(parser, "sequence_length", metavar="N", type=sizes, help="sequence length; several with commas")
    add_option(parser, "tensor_parallel_size", metavar="N", type=positive, help="over so many cores")
    add_option(parser, "pipeline_parallel_size", metavar="N", type=positive, help="in so many stages")
    parser.add_argument(
        "--size",
        metavar="NAME=N",
        action="append",
        default=[],
        type=_named_size,
        help="any other shape or parallel size, such as expert_parallel_size=4 or bucket=128,512; may be repeated",
    )
    parser.add_argument("--dtype", help="data type of the computation: bf16, float32, ...")
    add_option(
        parser, "num_cores", metavar="N", type=positive, help="cores of a process (default: NEURON_RT_NUM_CORES)"
    )
    parser.add_argument("--compiler", metavar="VERSION", help=compiler_help)
    parser.add_argument(
        "--target", help="such as trn1 (default: NEURON_PLATFORM_TARGET_OVERRIDE, the flags, this host)"
    )
    parser.add_argument(
        "--flags",
        metavar="FLAGS",
        help="of the compiler, as --flags='--model-type=transformer' (default: NEURON_CC_FLAGS)",
    )
    parser.add_argument(
        "--python", metavar="PATH", help="the Python, or a script of its environment, whose packages count"
    )


def is_named(args: argparse.Namespace) -> bool:
    """Whether the arguments name a run."""
    return args.model is not None or args.config is not None


def of_arguments(args: argparse.Namespace, command: str | None = None, **more: Any) -> Described:
    """The run that the arguments name.

    Args:
        command: what is going to run; its packages count where `--python` does not say.

    Raises:
        ValueError: there is no such run; the text says why.
    """
    from neff.runs.ingredients import describe

    texts = {name: getattr(args, name) for name in _TEXTS}
    given = {**dict(args.size), **{name: getattr(args, name) for name in _SIZES if getattr(args, name) is not None}}
    return describe(num_cores=args.num_cores, python=args.python or _python(command), **texts, **given, **more)


def _python(command: str | None) -> str | None:
    """Whose packages are most likely the trainer's: the command's, else our own, else those that PATH leads to."""
    from neff.runs import stack

    if command is not None and stack.search_path(command):
        return command
    if stack.versions([stack.COMPILER, *stack.PACKAGES]) or not stack.search_path("python3"):
        return None
    return "python3"


def sizes(text: str) -> int | list[int]:
    """A whole number from 1 on, or several with commas, for argparse."""
    numbers = [positive(part) for part in text.split(",")]
    return numbers[0] if len(numbers) == 1 else numbers


def _named_size(text: str) -> tuple[str, int | list[int]]:
    name, _, value = text.partition("=")
    if not name.isidentifier() or not name.islower():
        raise argparse.ArgumentTypeError(f"not NAME=N: {text!r}")
    return name, sizes(value)
