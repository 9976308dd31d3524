"""The columns of the database that hold more than one value: what is written, and read back or found damaged.

No I/O. SQLite keeps no checksums: a text with a few bytes of something else in it is as good to it as any other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from neffd.remotes.provenance import FileDigest
from neffd.store.damage import Damaged


def digests_text(files: Mapping[str, FileDigest]) -> str:
    """What an entry's files were."""
    return json.dumps({file: [digest.size_bytes, digest.sha256] for file, digest in files.items()})


def digests(text: Any) -> dict[str, FileDigest]:
    """The same read back; raises Damaged."""
    return {file: FileDigest(*of) for file, of in _pairs(text, (int, str)).items()}


def identities_text(files: Mapping[str, tuple[int, int]]) -> str:
    """Inode and mtime of files that are going to be removed."""
    return json.dumps(files)


def identities(text: Any) -> dict[str, tuple[int, int]]:
    """The same read back; raises Damaged."""
    return _pairs(text, (int, int))


def dated_paths_text(at_s: float, paths: Iterable[str]) -> str:
    """A time, and what was true of these paths then."""
    return "\n".join([str(at_s), *paths])


def dated_paths(text: str | None) -> tuple[float, frozenset[str]]:
    """The same read back; of nothing, or of what is no time, long ago."""
    at_s, *paths = (text or "").split("\n")
    try:
        return float(at_s), frozenset(paths)
    except ValueError:
        return 0.0, frozenset(paths)


def json_object(text: Any) -> dict[str, Any]:
    """Whatever was told by name; raises Damaged."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Damaged("a column holds something else than JSON")
    return found


# By table and column; NULL is none of their business.
PARSERS: Mapping[str, Mapping[str, Callable[[Any], object]]] = {
    "entries": {"files": digests},
    "evictions": {"files": identities},
    "events": {"facts": json_object},
    "runs": {"ingredients": json_object},
}


def file_names(text: Any) -> frozenset[str]:
    """The names alone, of either; raises Damaged."""
    return frozenset(json_object(text))


def _pairs(text: Any, kinds: tuple[type, type]) -> dict[str, Any]:
    found = json_object(text)
    for value in found.values():
        if not isinstance(value, list) or [type(part) for part in value] != [*kinds]:
            raise Damaged("a column holds something else than was written there")
    return {file: tuple(value) for file, value in found.items()}
