"""Files that appear whole or not at all, so that the storage survives a kill at any moment."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

_serial = itertools.count()


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` under a temporary name beside `path`, then rename it into place."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{next(_serial)}.tmp")
    try:
        temporary.write_bytes(data)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, separators=(",", ":")).encode())


def read_json(path: Path) -> Any:
    """Return the JSON value stored at `path`, or None where there is no such file."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None


def read_slice(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def fanned(root: Path, key: str) -> Path:
    """Path of a content-addressed file, spread over 256 folders."""
    return root / key[:2] / key
