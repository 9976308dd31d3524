"""The `neff` command: reads the arguments, runs a sub-command, turns what goes wrong into a line and an exit code."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from neff import exitcodes
from neff._version import __version__
from neff.commands import completion, flush, plan, prefetch, run, status, why, withdaemon
from neff.connection import socket_candidates
from neff.errors import DaemonError, LostError, RefusedError, SilentError, UnreachableError
from neff.protocol import SYSTEM_SOCKET, safe_text

_COMMANDS = {
    "run": run,
    "status": status,
    "plan": plan,
    "prefetch": prefetch,
    "flush": flush,
    "why": why,
    "completion": completion,
}

_EXIT_CODES: tuple[tuple[type[DaemonError], int], ...] = (
    (UnreachableError, exitcodes.UNREACHABLE),
    (LostError, exitcodes.UNREACHABLE),
    (SilentError, exitcodes.PENDING),
    (RefusedError, exitcodes.FAILED),
)

# Of the standard output: its reader has gone, or the file that it leads to cannot take more.
_NOT_WRITTEN = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO})
_WHAT_TO_DO = {
    "no-daemon": "is it running?",
    "silent": "is it stopped or overloaded?",
    "no-permission": "the group that may is shown by ls -l; an administrator can add you to it",
}
_SERVICE_KNOWS = frozenset({"no-daemon", "silent"})

_EPILOG = (
    f"Exit codes: {exitcodes.OK} done, {exitcodes.FAILED} failed or parked, {exitcodes.USAGE} wrong use, "
    f"{exitcodes.NOT_FOUND} not found, {exitcodes.UNREACHABLE} no daemon or Hub, "
    f"{exitcodes.PENDING} still waiting, {exitcodes.REFUSED} refused: login, repo or rights, "
    f"{exitcodes.INCOMPLETE} a remote lacks modules, "
    f"{exitcodes.INTERRUPTED} interrupted"
)


_EXAMPLES = {
    "status": "neff status --json",
    "prefetch": "neff prefetch --wait MODULE_12345678901234567890+e30acd3a",
    "flush": "neff flush --timeout 600",
    "why": "neff why MODULE_12345678901234567890+e30acd3a",
    "completion": "neff completion bash >> ~/.bashrc",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `neff`; returns the exit code. Usage errors and `--help` leave with SystemExit, as argparse does."""
    args = _arguments(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path may hold what the terminal's character set does not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        command = _COMMANDS.get(args.command, withdaemon)
        code = int(command.run(args))
        if sys.stdout is not None:  # closed by the caller, as `>&-` does
            sys.stdout.flush()
        return code
    except DaemonError as error:
        print(f"neff: {_advice(error, socket_candidates(args.socket))}", file=sys.stderr)
        return next(code for kind, code in _EXIT_CODES if isinstance(error, kind))
    except KeyboardInterrupt:
        return exitcodes.INTERRUPTED
    except OSError as error:
        _tell(error)
        return exitcodes.FAILED


def _tell(error: OSError) -> None:
    """One line in place of a traceback; nothing of a reader who has gone, as `neff status | head`."""
    where = "" if error.filename is None else f"{safe_text(error.filename)}: "
    if where or not isinstance(error, BrokenPipeError):
        print(f"neff: {where}{error.strerror or safe_text(error)}", file=sys.stderr)
    # Python would complain once more while it flushes at exit.
    if not where and error.errno in _NOT_WRITTEN and sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    before, words = run.split(argv)
    if words[:1] == ["add"] and "--" in words:
        end = words.index("--")
        args = _parsed(make_parser(["add"]), [*before, *words[:end]])
        args.argv = words[end + 1 :]
        return args
    if words[:1] != ["run"]:
        return _parsed(make_parser(words[:1]), argv)
    ours, command = run.split(words[1:])
    args = _parsed(make_parser(), [*before, "run", *ours])
    args.argv = command
    return args


class _Parser(argparse.ArgumentParser):
    """Commands can have an exit code of their own for wrong use."""

    usage_code = exitcodes.USAGE

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(self.usage_code, f"{self.prog}: error: {message}\n")


def _parsed(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """As `parse_args`; but what a command does not know is told with that command's usage."""
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        _commands(parser)[args.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


def make_parser(chosen: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The command's parser; of the commands that are the daemon's, only the `chosen` ones know their arguments."""
    parser = _Parser(
        prog="neff",
        description="Talk to neffd, the Neuron compile cache of this host.",
        epilog=f"Example: neff run -- torchrun --nproc_per_node 32 train.py. {_EPILOG}",
    )
    parser.add_argument("--version", action="version", version=f"neff {__version__}")
    _add_socket(parser, None)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    helps = {name: command.HELP for name, command in _COMMANDS.items()} | withdaemon.COMMANDS
    for name, text in helps.items():
        epilog = f"Example: {_EXAMPLES[name]}. {_EPILOG}" if name in _EXAMPLES else _EPILOG
        sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=epilog)
        # Also after the command; SUPPRESS, or its default would undo what stood before it.
        _add_socket(sub, argparse.SUPPRESS)
        if name in _COMMANDS:
            sub.usage_code = getattr(_COMMANDS[name], "USAGE_CODE", exitcodes.USAGE)
            _COMMANDS[name].add_arguments(sub)
        elif name in chosen:
            withdaemon.add_arguments(name, sub)
    return parser


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, with all its arguments."""
    return _commands(make_parser(list(withdaemon.COMMANDS)))


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (commands,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(commands.choices)


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
