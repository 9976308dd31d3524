"""The `neff` command: reads the arguments, runs a sub-command, turns what goes wrong into a line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from neff import exitcodes
from neff._version import __version__
from neff.commands import flush, prefetch, status
from neff.errors import DaemonError, LostError, RefusedError, SilentError, UnreachableError
from neff.protocol import safe_text

_COMMANDS = {"status": status, "prefetch": prefetch, "flush": flush}

_EXIT_CODES: tuple[tuple[type[DaemonError], int], ...] = (
    (UnreachableError, exitcodes.UNREACHABLE),
    (LostError, exitcodes.UNREACHABLE),
    (SilentError, exitcodes.PENDING),
    (RefusedError, exitcodes.FAILED),
)

_WHAT_TO_DO = {
    "no-daemon": "is it running? systemctl status neffd",
    "silent": "is it stopped or overloaded? systemctl status neffd",
    "no-permission": "the group that may is shown by ls -l; an administrator can add you to it",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `neff`; returns the exit code. Usage errors and `--help` leave with SystemExit, as argparse does."""
    args = _parser().parse_args(argv)
    try:
        code = int(_COMMANDS[args.command].run(args))
        sys.stdout.flush()
        return code
    except DaemonError as error:
        print(f"neff: {_advice(error)}", file=sys.stderr)
        return next(code for kind, code in _EXIT_CODES if isinstance(error, kind))
    except KeyboardInterrupt:
        return exitcodes.INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`neff status | head`). Python would complain once more while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exitcodes.FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="neff", description="Talk to neffd, the Neuron compile cache of this host.")
    parser.add_argument("--version", action="version", version=f"neff {__version__}")
    _add_socket(parser, None)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in _COMMANDS.items():
        sub = commands.add_parser(name, help=command.HELP, description=f"{command.HELP[0].upper()}{command.HELP[1:]}.")
        # Also after the command; SUPPRESS, or its default would undo what stood before it.
        _add_socket(sub, argparse.SUPPRESS)
        command.add_arguments(sub)
    return parser


def _add_socket(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument(
        "--socket",
        metavar="PATH",
        default=default,
        help="the daemon's socket (default: NEFFD_SOCKET, /run/neffd/neffd.sock, $XDG_RUNTIME_DIR/neffd/neffd.sock)",
    )


def _advice(error: DaemonError) -> str:
    if isinstance(error, RefusedError):
        return f"the daemon refused: {safe_text(error)} ({error.reason})"
    what_to_do = _WHAT_TO_DO.get(error.reason)
    return f"{error}: {what_to_do}" if what_to_do else str(error)


if __name__ == "__main__":
    sys.exit(main())
