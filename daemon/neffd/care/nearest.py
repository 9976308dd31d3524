"""What comes nearest to a module that could not be had: the same graph under other flags, the same key elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from neff import keys
from neff.keys import ModuleName
from neff.protocol import safe_text
from neffd.layouts import xla
from neffd.store import fsops
from neffd.store.root import CacheRoot

MOST = 10
_MOST_FLAGS = 40
_MAX_FLAGS_BYTES = 65_536
# Up to 2.14 the flags were text.
_FLAGS_TEXT = "compile_flags.txt"


def same_graph(name: ModuleName) -> str:
    """What every key of this graph begins with, whatever its flags."""
    return f"MODULE_{keys.hlo_hash(name.key)}+"


def read_flags(roots: Iterable[CacheRoot], name: ModuleName) -> list[str] | None:
    """The compiler flags of a module with a folder in one of `roots`; None if nobody can say. Blocking."""
    for root in roots:
        for file, parse in ((xla.FLAGS, _from_json), (_FLAGS_TEXT, _from_text)):
            try:
                flags = parse(fsops.read_small(root.entry(name) / file, _MAX_FLAGS_BYTES))
            except (OSError, ValueError, RecursionError):
                continue
            if flags is not None:
                return flags
    return None


def difference(asked: Sequence[str] | None, other: Sequence[str] | None) -> dict[str, Any]:
    """How the flags of another module differ from those of the one that was asked for; printable and bounded.

    `flags` are the other's where only those are known; empty where neither is.
    """
    if other is None:
        return {}
    if asked is None:
        return {"flags": _shown(other)}
    only_asked, only_other = _without(asked, other), _without(other, asked)
    differs = {"only_asked": _shown(only_asked), "only_other": _shown(only_other)}
    return differs if only_asked or only_other else {**differs, "other_order": list(asked) != list(other)}


def _without(flags: Sequence[str], others: Sequence[str]) -> list[str]:
    """Those of `flags` that `others` lacks, counted."""
    left = list(others)
    found = []
    for flag in flags:
        if flag in left:
            left.remove(flag)
        else:
            found.append(flag)
    return found


def _shown(flags: Sequence[str]) -> list[str]:
    return [safe_text(flag) for flag in flags[:_MOST_FLAGS]]


def _from_json(content: bytes) -> list[str] | None:
    flags: Any = json.loads(content)
    return flags if isinstance(flags, list) and all(isinstance(flag, str) for flag in flags) else None


def _from_text(content: bytes) -> list[str]:
    return content.decode("utf-8", "replace").split()
