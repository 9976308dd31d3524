"""What the cache directories say of runs. Blocking."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence

from neff.keys import ModuleName
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


def ready_in_one(places: Sequence[Place], root: str | None, names: Collection[ModuleName]) -> set[ModuleName]:
    """Which of `names` are ready in one cache directory, since a run has one: `root`, else the one with the most.

    Blocking.
    """
    roots = [place.root for place in places if root in (None, str(place.root.path))]
    return max(({name for name in names if one.is_ready(name)} for one in roots), key=len, default=set())
