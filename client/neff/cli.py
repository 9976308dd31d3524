"""The `neff` command: reads the arguments, runs a sub-command, turns what goes wrong into a line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from neff import exitcodes
from neff._version import __version__
from neff.commands import flush, prefetch, status
from neff.connection import socket_candidates
from neff.errors import DaemonError, LostError, RefusedError, SilentError, UnreachableError
from neff.protocol import SYSTEM_SOCKET, safe_text

_COMMANDS = {"status": status, "prefetch": prefetch, "flush": flush}

_EXIT_CODES: tuple[tuple[type[DaemonError], int], ...] = (
    (UnreachableError, exitcodes.UNREACHABLE),
    (LostError, exitcodes.UNREACHABLE),
    (SilentError, exitcodes.PENDING),
    (RefusedError, exitcodes.FAILED),
)

_WHAT_TO_DO = {
    "no-daemon": "is it running?",
    "silent": "is it stopped or overloaded?",
    "no-permission": "the group that may is shown by ls -l; an administrator can add you to it",
}
_SERVICE_KNOWS = frozenset({"no-daemon", "silent"})

_EPILOG = (
    f"Exit codes: {exitcodes.OK} done, {exitcodes.FAILED} failed or parked, {exitcodes.USAGE} wrong use, "
    f"{exitcodes.NOT_FOUND} not found, {exitcodes.UNREACHABLE} no daemon, {exitcodes.PENDING} still waiting, "
    f"{exitcodes.INTERRUPTED} interrupted"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `neff`; returns the exit code. Usage errors and `--help` leave with SystemExit, as argparse does."""
    args = _parser().parse_args(argv)
    try:
        code = int(_COMMANDS[args.command].run(args))
        sys.stdout.flush()
        return code
    except DaemonError as error:
        print(f"neff: {_advice(error, socket_candidates(args.socket))}", file=sys.stderr)
        return next(code for kind, code in _EXIT_CODES if isinstance(error, kind))
    except KeyboardInterrupt:
        return exitcodes.INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`neff status | head`). Python would complain once more while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exitcodes.FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="neff", description="Talk to neffd, the Neuron compile cache of this host.", epilog=_EPILOG
    )
    parser.add_argument("--version", action="version", version=f"neff {__version__}")
    _add_socket(parser, None)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in _COMMANDS.items():
        description = f"{command.HELP[0].upper()}{command.HELP[1:]}."
        sub = commands.add_parser(name, help=command.HELP, description=description, epilog=_EPILOG)
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


def _advice(error: DaemonError, candidates: Sequence[str]) -> str:
    if isinstance(error, RefusedError):
        return f"the daemon refused: {safe_text(error)} ({error.reason})"
    what_to_do = _WHAT_TO_DO.get(error.reason)
    if error.reason in _SERVICE_KNOWS and SYSTEM_SOCKET in candidates:
        what_to_do = f"{what_to_do} systemctl status neffd"
    return f"{error}: {what_to_do}" if what_to_do else str(error)


if __name__ == "__main__":
    sys.exit(main())
