"""Which running daemon serves a cache directory, and what it does with its remotes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neff import exitcodes, greeting
from neff.commands.session import CONNECT_S, WAITS, objects, status_of
from neff.connection import connect, socket_candidates
from neff.errors import DaemonError, UnreachableError
from neff.protocol import safe_text
from neffd.commands.errors import CommandError

_WRITTEN = "read-write"


@dataclass(frozen=True)
class Serving:
    """A daemon that serves the directory, and one of its remotes."""

    socket: str
    remote: str
    mode: str
    url: str

    def writable(self, instead: str = "") -> str:
        """The remote's name; raises CommandError where it is not written. `instead`: what can be done all the same."""
        if self.mode != _WRITTEN:
            mend = "`mode: read-write` for it in the daemon's configuration" + (f"; or {instead}" if instead else "")
            raise CommandError(f"the daemon at {self.socket} only reads {self.remote}", mend, exitcodes.REFUSED)
        return self.remote


def find(root: Path, repo_id: str, socket: str | None) -> Serving | None:
    """The daemon that serves `root`, with this repo; None if none does.

    Raises:
        CommandError: it does not use the repo.
        DaemonError: the one that was named does not answer.
    """
    path, status = _daemon_of(root, socket)
    if status is None:
        return None
    for remote in _remotes(path, status):
        if remote.url == f"hf://{repo_id}":
            return remote
    mend = f"add `- url: hf://{repo_id}` with `mode: read-write` to its `remotes`, and restart it"
    raise CommandError(
        f"{repo_id} is no remote of the daemon that serves {root}, at {safe_text(path)}", mend, exitcodes.REFUSED
    )


def written(root: Path, socket: str | None) -> list[Serving]:
    """The remotes that the daemon which serves `root` writes; none if none does. Raises DaemonError as `find`."""
    path, status = _daemon_of(root, socket)
    return [remote for remote in _remotes(path, status or {}) if remote.mode == _WRITTEN]


def _daemon_of(root: Path, socket: str | None) -> tuple[str, dict[str, Any] | None]:
    """Socket and status of the daemon that serves `root`, or no status if none does."""
    identity = greeting.identity_of(str(root))
    if identity == (None, None):
        return "", None
    for path in socket_candidates(socket):
        try:
            connection = connect([path], greeting.of_command(), WAITS, CONNECT_S)
        except UnreachableError:
            if socket is not None:
                raise
            continue
        try:
            status = status_of(connection)
        except DaemonError:
            continue
        finally:
            connection.close()
        if identity in [(item.get("device"), item.get("inode")) for item in objects(status.get("cache_dirs"))]:
            return path, status
    return "", None


def _remotes(socket: str, status: dict[str, Any]) -> list[Serving]:
    return [
        Serving(socket, str(remote.get("name")), str(remote.get("mode")), str(remote.get("url")))
        for remote in objects(status.get("remotes"))
    ]
