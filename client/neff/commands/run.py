"""`neff run`: a command, and everything that it starts, with the hook."""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from neff import exitcodes, greeting, tally
from neff.commands import ingredients
from neff.commands.arguments import add_option, seconds
from neff.commands.session import CONNECT_S, WAITS
from neff.connection import connect, socket_candidates
from neff.errors import DaemonError
from neff.launch import counts, environment, process
from neff.protocol import safe_text

if TYPE_CHECKING:
    from neff.runs.launcher import Launcher

HELP = "run a command; it and all its children ask the daemon before they compile"
USAGE = "neff run [options] [--] COMMAND [ARGUMENT ...]"
EPILOG = (
    "Everything from the first word that is no option of `neff run` is the command. The exit code is the command's; "
    f"{exitcodes.CANNOT_EXECUTE} it cannot be executed, {exitcodes.COMMAND_NOT_FOUND} it was not found, "
    f"{exitcodes.USAGE} wrong use. Example: neff run -- torchrun --nproc_per_node 32 train.py"
)

_WITH_VALUE = frozenset({"--socket", "--summary-json", "--wait-daemon"}) | ingredients.WITH_VALUE
_LOOK_EVERY_S = 0.2


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our own words and the command, which begins with the first word that is no option, or after `--`.

    argparse cannot be asked: what it does with `--` among the rest depends on Python's version.
    """
    words = enumerate(argv)
    for index, word in words:
        if word == "--":
            return list(argv[:index]), list(argv[index + 1 :])
        if not word.startswith("-") or word == "-":
            return list(argv[:index]), list(argv[index:])
        if word in _WITH_VALUE:
            next(words, None)
    return list(argv), []


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = USAGE
    parser.epilog = EPILOG
    parser.allow_abbrev = False
    parser.add_argument("--quiet", action="store_true", help="no line about the graphs at the end")
    parser.add_argument(
        "--summary-json", metavar="FILE", help="write the numbers of that line, and the modules, to FILE, as JSON"
    )
    parser.add_argument(
        "--wait-daemon",
        metavar="S",
        type=seconds,
        default=0.0,
        help="wait for the daemon up to S seconds before the command starts (default: %(default)g); it starts anyway",
    )
    ingredients.add_arguments(parser)
    parser.add_argument(
        "--private",
        action="store_true",
        help="a model that public remotes are not told of (default: where it is local)",
    )
    add_option(parser, "no_prefetch", action="store_true", help="do not have the run's modules brought ahead")
    parser.set_defaults(argv=[])


def run(args: argparse.Namespace) -> int:
    if not args.argv:
        print(f"usage: {USAGE}\nneff run: error: which command?", file=sys.stderr)
        return exitcodes.USAGE
    try:
        if not args.argv[0]:  # no name of a file; Python refuses it with another error
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if environment.is_disabled(os.environ):
            process.replace_by(args.argv)
        return _run(args)
    except OSError as error:
        return _not_started(args.argv[0], error)


def _run(args: argparse.Namespace) -> int:
    if args.wait_daemon:
        _wait_for_daemon(args.socket, args.wait_daemon)
    summary_path = args.summary_json and environment.absolute(args.summary_json)
    folder = environment.make_run_folder(os.environ)
    launcher: Launcher | None = None
    try:
        added = environment.additions(os.environ, folder, args.socket)
        if ingredients.is_named(args):
            launcher, named = _named_run(args, {**os.environ, **added})
            added |= named
        child = process.Child(args.argv, {**os.environ, **added})
        with environment.kept(folder):  # behind the start, which waits for no file server's locks
            status = child.wait()
        counted = None if folder is None else _counted(folder.path)
    finally:
        saved_s = _saved_s(launcher)
        # An inner run's folder stays for the outer one, which adds it to its own.
        if folder is not None and not folder.is_nested:
            shutil.rmtree(folder.path, ignore_errors=True)
    if counted is not None:
        counted.saved(saved_s)
    line = None if counted is None else counts.sentence(counted.as_dict())
    if line is not None and not args.quiet:
        _say(line)
    if summary_path:
        _write_summary(summary_path, counted, process.exit_code(status))
    return process.end_like(status)


def _named_run(args: argparse.Namespace, environ: Mapping[str, str]) -> tuple[Launcher | None, dict[str, str]]:
    """Begin the run that the options name: its line to the daemon, and what the command's environment gets for it.

    Without a key, and inside a run of the same key, there is neither; the command starts all the same.
    """
    from neff.runs import marker
    from neff.runs.launcher import Launcher

    try:
        found = ingredients.of_arguments(args, args.argv[0], private=True if args.private else None, environ=environ)
        outer = marker.of_environment(environ)
        if outer is not None and outer.key == found.key:
            return None, {}
        instance = marker.new_instance(found.key, environ)
        run = marker.Run(found.key, instance, found.ingredients, found.is_private, not args.no_prefetch)
        launcher = Launcher(run, args.socket, environ) if marker.leads(environ) else None
        if launcher is not None:
            launcher.begin(prefetch=not args.no_prefetch)
        return launcher, {marker.VARIABLE: marker.to_text(run)}
    except Exception as error:  # whatever it is, the command is what was asked for
        _say(f"{safe_text(error)}: the run is not recorded under a key")
        return None, {}


def _saved_s(launcher: Launcher | None) -> float | None:
    """Tell the daemon that the run is over; what it says that fetching saved."""
    try:
        summary = None if launcher is None else launcher.end()
        return tally.seconds_of((summary or {}).get("saved_s"))
    except Exception:  # whatever it is, the command has ended, and how it ended counts
        return None


def _counted(folder: str) -> counts.Counts | None:
    try:
        # Temporary files may have been cleared, or the user logged out: that is not the same as no graphs.
        return counts.read(folder) if os.path.isdir(folder) else None
    except Exception:  # whatever it is, the command has ended, and how it ended counts
        return None


def _write_summary(path: str, counted: counts.Counts | None, exit_code: int) -> None:
    try:
        if counted is None:
            raise OSError(errno.EIO, "nothing could be counted: is there a place where temporary files stay?")
        with open(path, "w", encoding="utf-8") as file:
            summary = {"schema": 1, "exit_code": exit_code, **counted.as_dict(), "modules": counted.modules()}
            json.dump(summary, file, indent=2)
            file.write("\n")
    except OSError as error:
        _say(f"no summary in {safe_text(path)}: {error.strerror}")


def _not_started(command: str, error: OSError) -> int:
    """Exit code and words of shells for a command that cannot be started."""
    is_missing = error.errno == errno.ENOENT
    _say(f"{safe_text(command)}: {'command not found' if is_missing else error.strerror or error}")
    return exitcodes.COMMAND_NOT_FOUND if is_missing else exitcodes.CANNOT_EXECUTE


def _wait_for_daemon(socket_path: str | None, limit_s: float) -> None:
    deadline_s = time.monotonic() + limit_s
    while True:
        left_s = deadline_s - time.monotonic()
        try:
            with closing(connect(socket_candidates(socket_path), greeting.of_command(), WAITS, min(CONNECT_S, left_s))):
                return
        except DaemonError as error:
            if deadline_s - time.monotonic() <= _LOOK_EVERY_S:
                _say(f"{safe_text(error)}: starting the command without it")
                return
        time.sleep(_LOOK_EVERY_S)


def _say(text: str) -> None:
    """One line on stderr, if there is one and somebody listens."""
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(f"neff: {text}", file=sys.stderr, flush=True)
