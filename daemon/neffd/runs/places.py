"""What the cache directories say of runs. Blocking."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from neffd.runs.interfaces import Place
from neffd.store.root import CacheRoot


def trusting(places: Sequence[Place], uid: int) -> dict[str, CacheRoot]:
    """The cache directories in which a user's work is for others, by path."""
    return {str(place.root.path): place.root for place in places if place.trust.covers_user(uid)}


def latest_namespaces(roots: Sequence[CacheRoot], most: int) -> list[str]:
    """The compiler versions that were used last, those used latest first."""
    changed: dict[str, float] = {}
    for root in roots:
        for namespace in root.namespaces():
            with contextlib.suppress(OSError):
                changed[namespace] = max(changed.get(namespace, 0.0), (root.path / namespace).stat().st_mtime)
    return sorted(changed, key=lambda namespace: changed[namespace], reverse=True)[:most]
