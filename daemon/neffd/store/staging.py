"""The staging folder at the start: it becomes ours alone, and what an earlier life left in it is cleared."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from neffd.store import fsops
from neffd.store.root import CacheRoot


def own_staging(root: CacheRoot) -> int:
    """Lock the staging folder for the life of this process; returns the file descriptor that holds the lock.

    A second daemon on the cache directory, with a journal of its own, would take what we have pinned for left-overs.
    Raises NeffdError if there is one.
    """
    fd = os.open(root.staging / "neffd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    return fsops.hold_for_life(
        fd, f"another neffd serves the cache directory {root.path}", "stop it, or give this one other cache_dirs"
    )


def clean_staging(root: CacheRoot, pinned: Collection[Path]) -> None:
    """Remove half-made downloads, lock drafts, and pinned files that no journal row refers to. Blocking."""
    fsops.remove_tree(root.staging / "fetch")
    for draft in root.staging.glob("lock-*"):
        draft.unlink(missing_ok=True)
    outbox = root.staging / "outbox"
    if outbox.is_dir():
        for folder in outbox.iterdir():
            if folder not in pinned:
                fsops.remove_tree(folder)
