"""Commands whose code is in the daemon's package: only their names are here, the rest comes when one of them runs."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Any

from neff import exitcodes

COMMANDS = {
    "lookup": "show for which shapes a model is compiled",
    "list": "list what a cache repo holds: models by compiler, or one model's compiled files",
    "set": "set the cache repo that this user's tools use",
    "create": "create a cache repo on the Hub, and set it",
    "add": "run a command, or a small training of a model, and bring what it compiled to the cache repo",
    "synchronize": "copy what the cache directory and the cache repo lack of each other",
    "cleanup": "remove failed compiles, left-over locks and old versions from the cache directory",
    "du": "show what takes how much space in the cache directory",
}


def add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """Give the command's own arguments to its parser; SystemExit where its code is not installed."""
    try:
        command = _command(name)
    except ModuleNotFoundError as error:
        sys.exit(_missing(name, error))
    command.add_arguments(parser)
    parser.epilog = f"Example: {command.EXAMPLE}. {parser.epilog}{getattr(command, 'EXIT_CODES', '')}"


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    return run_module(args.command, args)


def run_module(module: str, args: argparse.Namespace) -> int:
    """Run a module of the daemon's commands for the command that was given; returns the exit code."""
    try:
        from neffd.commands.errors import CommandError

        try:
            return int(_command(module).run(args))
        except CommandError as error:
            print(*error.lines(), sep="\n", file=sys.stderr)
            return error.exit_code
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "neff":
            raise
        return _missing(args.command, error)


def _command(name: str) -> Any:
    return importlib.import_module(f"neffd.commands.{name}")


def _missing(name: str, error: ModuleNotFoundError) -> int:
    print(f"neff: `neff {name}` needs {error.name}: pip install 'neffd[daemon]'", file=sys.stderr)
    return exitcodes.FAILED
