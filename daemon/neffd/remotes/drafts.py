"""What publishers that died left in a shared directory: swept at an age at which nobody can still be at work on it."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from neffd.store import fsops

# An upload of one entry over the slowest line takes hours, not days.
ABANDONED_S = 24 * 3600.0
_OURS = re.compile(r"[0-9a-f]{16}(\.mark)?")


def sweep(root: Path, staging: str) -> int:
    """Remove abandoned drafts; returns how many. Blocking.

    Args:
        root: the shared directory, writable.
        staging: the folder of drafts in it; a draft of that folder itself is called the same with `-` and a number.
    """
    now = _now_there(root / staging)
    if now is None:
        return 0
    swept = 0
    for draft in _drafts(root, staging):
        with contextlib.suppress(OSError):
            if now - _last_touched(draft) < ABANDONED_S:
                continue
            if fsops.is_folder(draft):
                fsops.remove_tree(draft)
            else:
                draft.unlink(missing_ok=True)
            swept += 1
    return swept


def _now_there(folder: Path) -> float | None:
    """By the file server's clock, which all hosts share; None where there is no folder of drafts."""
    probe = folder / secrets.token_hex(8)
    try:
        probe.mkdir()
    except OSError:
        return None
    try:
        return probe.stat().st_mtime
    finally:
        probe.rmdir()


def _drafts(root: Path, staging: str) -> Iterator[Path]:
    if fsops.is_folder(root / staging):
        yield from (path for path in (root / staging).iterdir() if _OURS.fullmatch(path.name))
    yield from (path for path in root.glob(f"{staging}-*") if _OURS.fullmatch(path.name.removeprefix(f"{staging}-")))


def _last_touched(draft: Path) -> float:
    inside = list(draft.iterdir()) if fsops.is_folder(draft) else []
    return max(path.lstat().st_mtime for path in (draft, *inside))
