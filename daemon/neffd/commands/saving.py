"""The name of the cache repo where optimum-neuron keeps it, and who on this host goes by it."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from neff import greeting
from neff.commands.session import CONNECT_S, WAITS, objects, status_of, texts
from neff.connection import connect, socket_candidates
from neff.errors import DaemonError, UnreachableError
from neff.hubrepo import saved_repo_path
from neffd.commands.errors import CommandError


@dataclass(frozen=True)
class Daemon:
    """A running daemon: does it use the repo? `remote` is its name for it, `mode` what it does with it."""

    socket: str
    knows: bool
    remote: str | None = None
    mode: str | None = None
    problem: str | None = None

    def line(self, repo_id: str) -> str:
        if self.problem:
            return f"The daemon at {self.socket} did not say whether it uses {repo_id}: {self.problem}"
        if self.knows:
            return f"The daemon at {self.socket} uses it: remote {self.remote}, {self.mode}."
        mend = f"add `- url: hf://{repo_id}` with `mode: read-write` to `remotes` in its configuration, and restart it"
        return f"The daemon at {self.socket} does not use it: {mend}."


@dataclass(frozen=True)
class Outcome:
    """What was saved, and what follows."""

    repo_id: str
    path: str
    overruled_by: str | None
    daemons: list[Daemon]

    def lines(self) -> list[str]:
        lines = [f"Neuron cache name set locally to {self.repo_id} in {self.path}."]
        if self.overruled_by:
            lines.append(f"CUSTOM_CACHE_REPO={self.overruled_by} overrules it in this environment: unset it.")
        lines += [daemon.line(self.repo_id) for daemon in self.daemons]
        if not self.daemons:
            lines.append("No daemon runs here; one whose configuration names no remotes reads it when it starts.")
        return lines

    def document(self) -> dict[str, object]:
        return asdict(self)


def save(repo_id: str, socket: str | None) -> Outcome:
    """Save the name, and ask the daemons of this host whether they know it.

    Args:
        socket: of the only daemon to ask, or None.

    Raises:
        CommandError: the file cannot be written.
    """
    path = Path(saved_repo_path(os.environ))
    mend = "HF_HOME=DIR   (a directory of yours that can be written; for every command that is to know it)"
    if path.parts[0].startswith("~"):  # which nobody could tell the meaning of
        raise CommandError("no place for the name of the repo: this user has no home directory", mend)
    try:
        _write(path, repo_id)
    except OSError as error:
        raise CommandError(f"{path} could not be written: {error.strerror}", mend) from error
    given = os.environ.get("CUSTOM_CACHE_REPO", "").strip()
    overruled_by = given if given and given != repo_id else None
    asked = [_ask(path, repo_id) for path in socket_candidates(socket)]
    daemons = [daemon for daemon in asked if daemon]
    return Outcome(repo_id, str(path), overruled_by, daemons)


def _write(path: Path, repo_id: str) -> None:
    """Plain text without a newline, as optimum-neuron writes it; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(repo_id)
    temporary = Path(file.name)
    try:
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _ask(socket: str, repo_id: str) -> Daemon | None:
    """What the daemon there says; None if none is."""
    try:
        connection = connect([socket], greeting.of_command(), WAITS, CONNECT_S)
    except UnreachableError as error:
        return None if error.reason == "no-daemon" else Daemon(socket, False, problem=error.reason)
    except DaemonError as error:
        return Daemon(socket, False, problem=error.reason)
    try:
        remotes = objects(status_of(connection).get("remotes"))
    except DaemonError as error:
        return Daemon(socket, False, problem=error.reason)
    finally:
        connection.close()
    for remote in remotes:
        if remote.get("url") == f"hf://{repo_id}":
            name, mode = texts(remote, "name", "mode")
            return Daemon(socket, True, name, mode)
    return Daemon(socket, False)
