"""Which running daemon serves a cache directory, and what it does with a repo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from neff import exitcodes, greeting
from neff.commands.session import CONNECT_S, WAITS, objects, status_of
from neff.connection import connect, socket_candidates
from neff.errors import DaemonError, UnreachableError
from neff.protocol import safe_text
from neffd.commands.errors import CommandError


@dataclass(frozen=True)
class Serving:
    """A daemon that serves the directory and uses the repo under a name."""

    socket: str
    remote: str
    mode: str

    def writable(self, *, needed: bool) -> str:
        """The remote's name; raises CommandError where it is not written, and has to be."""
        if needed and self.mode != "read-write":
            mend = "`mode: read-write` for it in the daemon's configuration; or fetch only: --pull"
            raise CommandError(f"the daemon at {self.socket} only reads {self.remote}", mend, exitcodes.REFUSED)
        return self.remote


def find(root: Path, repo_id: str, socket: str | None) -> Serving | None:
    """The daemon that serves `root`; None if none does.

    Raises:
        CommandError: it does not use the repo.
        DaemonError: the one that was named does not answer.
    """
    identity = greeting.identity_of(str(root))
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
        served = [(item.get("device"), item.get("inode")) for item in objects(status.get("cache_dirs"))]
        if identity not in served:
            continue
        for remote in objects(status.get("remotes")):
            if remote.get("url") == f"hf://{repo_id}":
                return Serving(path, str(remote.get("name")), str(remote.get("mode")))
        mend = f"add `- url: hf://{repo_id}` with `mode: read-write` to its `remotes`, and restart it"
        raise CommandError(
            f"{repo_id} is no remote of the daemon that serves {root}, at {safe_text(path)}", mend, exitcodes.REFUSED
        )
    return None
