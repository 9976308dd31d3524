"""What `neff add` does: a command with the hook, its compiles to the remotes, and a look whether they are there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neff.commands.session import status_of
from neff.errors import DaemonError
from neff.launch import process
from neffd.commands import delivery, exchange, login, output, registrypush
from neffd.commands.addplace import Place
from neffd.commands.delivery import Lacking

# This very `neff`, from a directory that may hold a folder of that name.
_NEFF = "import sys; sys.path[:] = filter(None, sys.path); from neff.cli import main; sys.exit(main())"


@dataclass
class Added:
    """How the command ended, what it looked for, and what is not there; None where nobody looked."""

    exit_code: int
    modules: list[dict[str, Any]]
    lacking: list[Lacking] | None = None
    registry: int | None = None


def add(at: Place, argv: Sequence[str], named: Sequence[str] = (), *, as_json: bool) -> Added:
    """Run the command, and bring what it used to the remotes; raises DaemonError.

    Args:
        named: options of `neff run` that say which run it is.
    """
    status, modules = _run([*named, "--", *argv], at.socket, as_json)
    added = Added(process.exit_code(status), modules)
    if os.WIFSIGNALED(status):
        return added
    try:
        _deliver(at, added, as_json)
    except DaemonError:
        if not added.exit_code:
            raise
    return added


def _run(words: Sequence[str], socket: str, as_json: bool) -> tuple[int, list[dict[str, Any]]]:
    """`neff run`: the command's wait status, and the modules that it looked for."""
    with tempfile.TemporaryDirectory(prefix="neff-add-") as folder:
        summary = Path(folder) / "summary.json"
        ours = ["run", "--socket", socket, "--summary-json", str(summary)]
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        try:
            with _stdout_to_stderr() if as_json else contextlib.nullcontext():
                child = process.Child([sys.executable, "-c", _NEFF, *ours, *words], os.environ)
            status = child.wait()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            modules = json.loads(summary.read_bytes())["modules"]
        except (OSError, ValueError, KeyError):  # its temporary folder was full, say; `neff run` has told
            modules = []
    return status, modules


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """What is started inside writes to our standard error; where our output is closed, as by `>&-`, so is its."""
    if sys.stdout is None:  # descriptor 1 may be any file by now
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _deliver(at: Place, added: Added, as_json: bool) -> None:
    names = delivery.names_in(added.modules)
    if not names:
        added.lacking = []
        return
    with exchange.session(at.socket, at.root) as connection:
        delivery.wait_for_compiles(connection, names, lambda left: _say(f"waiting for {left} compiles"))
        for remote in at.remotes:
            with output.bytes_bar("sent", hidden=as_json) as progress:
                exchange.push(connection, remote.remote, exchange.Outcome(), progress)
        added.lacking = delivery.lacking(connection, at.remotes, names)
        status = status_of(connection)
    if login.token() is not None and not any(item.reason == "public-repo" for item in added.lacking):
        added.registry = _register(at, status)


def _register(at: Place, status: dict[str, Any]) -> int | None:
    """Send the registry's files that the command left in the cache directory; a failure is only told."""
    repos = [(repo_id, remote.remote) for remote in at.remotes if (repo_id := delivery.repo_of(remote))]
    sent = [registrypush.push(at.root, repo_id, exchange.facts_of(status, name)).files for repo_id, name in repos]
    known = [count for count in sent if count is not None]
    return sum(known) if len(known) == len(sent) else None


def _say(text: str) -> None:
    print(f"neff: {text}", file=sys.stderr, flush=True)
