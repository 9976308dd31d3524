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
from neffd.store.root import is_served

_WRITTEN = "read-write"
# So many locks a status shows at most.
_LISTED_LOCKS = 100


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


@dataclass(frozen=True)
class Compiling:
    """Entries that a daemon says are being compiled, as far as it can tell, so not those whose lock it calls old.

    `is_cut`: there may be more, which it does not list.
    """

    socket: str
    names: frozenset[str]
    is_cut: bool

    def says(self, name: str) -> str:
        """For a person; no `name` for what may be among those that are not listed."""
        what = f"{safe_text(name)} is being compiled" if name else f"{_LISTED_LOCKS} or more are being compiled"
        return f"{what}, says the daemon at {safe_text(self.socket)}"


def find(root: Path, repo_id: str, socket: str | None) -> Serving | None:
    """The daemon that serves `root`, with this repo; None if none does.

    Raises:
        CommandError: it does not use the repo; or one serves `root` that does not answer here.
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
    """The remotes that the daemon which serves `root` writes; none if none does. Raises what `find` raises."""
    path, status = _daemon_of(root, socket)
    return [remote for remote in _remotes(path, status or {}) if remote.mode == _WRITTEN]


def compiling(root: Path, socket: str | None) -> Compiling | None:
    """What is compiled in `root` as its daemon says; None if none serves it. Raises DaemonError as `find`."""
    path, status = _daemon_of(root, socket)
    if status is None:
        return None
    identity = greeting.identity_of(str(root))
    cache_dirs = objects(status.get("cache_dirs"))
    paths = [item.get("path") for item in cache_dirs if _identity(item) == identity]
    rows = objects(status.get("compiling"))
    names = frozenset(str(row.get("name")) for row in rows if row.get("root") in paths and not row.get("abandoned"))
    return Compiling(path, names, len(rows) >= _LISTED_LOCKS)


def _daemon_of(root: Path, socket: str | None) -> tuple[str, dict[str, Any] | None]:
    """Socket and status of the daemon that serves `root`, or no status if none does."""
    identity = greeting.identity_of(str(root))
    if identity == (None, None):
        return "", None
    is_one_mute = False
    for path in socket_candidates(socket):
        try:
            status = _status_at(path)
        except DaemonError as error:
            if socket is not None and isinstance(error, UnreachableError):
                raise
            is_one_mute |= error.reason != "no-daemon"
            continue
        if identity in map(_identity, objects(status.get("cache_dirs"))):
            return path, status
    if is_one_mute and is_served(root, if_hidden=True):
        raise mute(root, socket)
    return "", None


def _identity(cache_dir: dict[str, Any]) -> tuple[Any, Any]:
    return cache_dir.get("device"), cache_dir.get("inode")


def mute(root: Path, socket: str | None) -> CommandError:
    """What there is to say where `root` is served by a daemon that this command cannot talk to."""
    tried = " or ".join(map(safe_text, socket_candidates(socket)))
    mend = f"--socket PATH, or systemctl status neffd   (tried {tried})"
    return CommandError(f"another neffd serves {root}, and does not answer", mend, exitcodes.UNREACHABLE)


def _status_at(path: str) -> dict[str, Any]:
    connection = connect([path], greeting.of_command(), WAITS, CONNECT_S)
    try:
        return status_of(connection)
    finally:
        connection.close()


def _remotes(socket: str, status: dict[str, Any]) -> list[Serving]:
    return [
        Serving(socket, str(remote.get("name")), str(remote.get("mode")), str(remote.get("url")))
        for remote in objects(status.get("remotes"))
    ]
