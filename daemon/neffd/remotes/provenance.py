"""`neffd.json`: what an entry on a remote consists of and how it came to be.

Format 1 is a JSON object `{"format": 1, "files": {<name>: {"size_bytes": int, "sha256": hex}}, "compile_s": number?,
"made": {…}?}`. It lives in the entry's folder on the remote only. Whoever can write there can write it too: it detects
damage, not malice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FILE_NAME = "neffd.json"
MAX_BYTES = 65_536
_FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileDigest:
    """Size and content hash of one file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Provenance:
    """What an entry holds; `compile_s` and `made` (host facts) where they are known."""

    files: Mapping[str, FileDigest]
    compile_s: float | None = None
    made: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The file's bytes: one line of JSON with sorted keys, so equal provenance is equal bytes."""
        body: dict[str, Any] = {
            "format": _FORMAT,
            "files": {
                name: {"size_bytes": digest.size_bytes, "sha256": digest.sha256} for name, digest in self.files.items()
            },
        }
        if self.compile_s is not None:
            body["compile_s"] = self.compile_s
        if self.made:
            body["made"] = dict(self.made)
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def parse(content: bytes) -> Provenance | None:
    """Read `neffd.json` from untrusted hands; None (no provenance) for anything that is not format 1."""
    try:
        body = json.loads(content) if len(content) <= MAX_BYTES else None
        if not isinstance(body, dict) or body.get("format") != _FORMAT:
            return None
        files = {str(name): _digest(value) for name, value in body["files"].items()}
        compile_s = body.get("compile_s")
        made = body.get("made") or {}
        return Provenance(
            files=files,
            compile_s=float(compile_s) if isinstance(compile_s, int | float) and 0 <= compile_s < 1e7 else None,
            made={str(key): str(value) for key, value in made.items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _digest(value: Any) -> FileDigest:
    size_bytes, sha256 = value["size_bytes"], value["sha256"]
    if type(size_bytes) is not int or size_bytes < 0 or not _SHA256.fullmatch(sha256):
        raise ValueError("not a digest")
    return FileDigest(size_bytes, sha256)
