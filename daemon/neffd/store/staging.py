"""Clearing what an earlier life of the daemon left in the staging folder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from neffd.store import fsops
from neffd.store.root import CacheRoot


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
