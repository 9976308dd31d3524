"""`neffd --forget-remote`: giving up, for good, what waits for a remote that will not come back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from neffd.config import Config
from neffd.errors import NeffdError
from neffd.publish.journal import Journal
from neffd.store import fsops
from neffd.store.database import Database
from neffd.store.index import Index


def forget_remote(config: Config, remote: str, say: Callable[[str], None]) -> None:
    """Drop what the journal holds for `remote`, after saying how much that is.

    The entries themselves stay in the cache directory and on other remotes. Raises NeffdError where the daemon runs,
    and where the remote is configured: then what waits is still to be sent.
    """
    database = Database(config.state_dir)
    try:
        if any(configured.name == remote and configured.can_write for configured in config.remotes):
            raise NeffdError(
                "remote-configured",
                f"remote {remote!r} is configured as read-write, so what waits for it will still be sent",
                "take it out of the configuration first",
            )
        journal = Journal(database, Index(database))
        waiting = journal.count_blocking()
        say(f"{waiting.get(remote, 0)} entries wait for remote {remote!r}")
        if remote in waiting:
            for folder in journal.forget_blocking(remote):
                fsops.remove_tree(Path(folder))
            say("they are not sent any more; the cache directory and other remotes keep what they have")
        elif waiting:
            say("entries wait for: " + ", ".join(f"{name!r} ({count})" for name, count in sorted(waiting.items())))
    finally:
        database.close()
