"""Where `neff add` runs its command, and what is to have the modules: all of it checked before anything takes long."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from neff import exitcodes
from neff.cachedir import cache_root
from neff.commands.reasons import explained
from neff.commands.session import status_of
from neff.launch import environment
from neffd.commands import errors, exchange, localcache, login, owndaemon, serving, training
from neffd.commands.chosenrepo import chosen
from neffd.commands.errors import CommandError
from neffd.commands.serving import Serving

_ACCESS_S = 30.0
_LOOK_S = 0.2


@dataclass(frozen=True)
class Place:
    """Where modules come into being, and who brings them where.

    Args:
        root: the cache directory.
        remotes: what is to have them.
        through: `daemon` if one serves the directory, else `own`.
        training: the command of the training session, where one was asked for.
    """

    root: Path
    socket: str
    remotes: list[Serving]
    through: str
    training: list[str] = field(default_factory=list)


@contextlib.contextmanager
def place(
    repo_id: str | None,
    socket: str | None,
    *,
    allow_public: bool,
    session: training.Session | None,
    python: str | None,
) -> Iterator[Place]:
    """All that is needed, before anything takes long; raises CommandError where something is missing."""
    if environment.is_disabled(os.environ):
        raise CommandError("NEFF_DISABLE is set: nothing would be noticed", "unset NEFF_DISABLE")
    root = _root()
    repo_id = chosen(repo_id)
    found = serving.find(root, repo_id, socket) if repo_id else None
    remotes = [found] if found else serving.written(root, socket) if repo_id is None else []
    for remote in remotes:
        remote.writable()
    if not remotes and repo_id is None:
        raise errors.none_set("name the one to add to: --repo_id REPO, or set one")
    if not remotes and login.token() is None:
        raise errors.not_logged_in("adding to a repo")
    command = session.command(training.look_at_host(python).check()) if session else []
    with contextlib.ExitStack() as stack:
        through = "daemon" if remotes else "own"
        if repo_id and not remotes:
            remotes = [stack.enter_context(_own(root, repo_id, socket, allow_public=allow_public))]
        for remote in remotes:
            _wait_until_writable(root, remote, through)
        yield Place(root, remotes[0].socket, remotes, through, command)


def _root() -> Path:
    """The cache directory of the Neuron tools, which may have to be made yet."""
    path = cache_root()
    if path is None:
        raise CommandError("the cache is no directory of this host: NEURON_COMPILE_CACHE_URL", "unset it")
    return Path(path).resolve()


@contextlib.contextmanager
def _own(root: Path, repo_id: str, socket: str | None, *, allow_public: bool) -> Iterator[Serving]:
    """A daemon of our own, with the repo as its one remote."""
    from neffd.commands import hub  # what is refused without the network is refused at once

    localcache.root_of(None, make=True)
    hub.run_async(hub.check_repo(repo_id))
    if not allow_public and hub.run_async(hub.is_public(repo_id)):
        mend = "make it private, or say --allow_public"
        raise CommandError(f"everybody can read {repo_id}", mend, exitcodes.REFUSED)
    name, url = owndaemon.remote_name(repo_id), f"hf://{repo_id}"
    remote = {"name": name, "url": url, "endpoint": hub.endpoint(), "mode": "read-write", "allow_public": allow_public}
    with owndaemon.running(root, remote, socket, for_trainers=True) as own_socket:
        yield Serving(own_socket, name, "read-write", url)


def _wait_until_writable(root: Path, remote: Serving, through: str) -> None:
    """Until the daemon knows that it may write; raises CommandError where it may not, or cannot find out."""
    deadline = time.monotonic() + _ACCESS_S
    with exchange.session(remote.socket, root) as connection:
        while True:
            facts = exchange.facts_of(status_of(connection), remote.remote)
            trouble = facts.get("reason")
            if facts.get("can_write") is True:
                return
            if trouble in exchange.HOPELESS:
                raise _no_right(remote, str(trouble), through)
            if time.monotonic() > deadline:
                why = explained(str(trouble)) if trouble else "it did not answer"
                raise CommandError(f"{remote.url} cannot be written now: {why}", "", exitcodes.UNREACHABLE)
            time.sleep(_LOOK_S)


def _no_right(remote: Serving, reason: str, through: str) -> CommandError:
    repo_id = remote.url.removeprefix("hf://")
    if through == "own":
        return errors.no_write_access(repo_id, explained(reason))
    mend = f"give the daemon at {remote.socket} a token that may: token_file of this remote, in its configuration"
    return CommandError(f"no write access to {repo_id}: {explained(reason)}", mend, exitcodes.REFUSED)
