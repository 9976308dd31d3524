"""What is below a folder in which others work."""

from __future__ import annotations

import os
from fnmatch import fnmatch
from pathlib import Path


def below(folder: Path, pattern: str = "*") -> list[Path]:
    """Files below `folder` whose names fit, whatever comes and goes meanwhile: `rglob` raises then."""
    return [Path(above, file) for above, _, files in os.walk(folder) for file in files if fnmatch(file, pattern)]


def left_in_staging(staging: Path) -> list[Path]:
    """Every file in the staging folder of a cache directory but its lock."""
    return [path for path in below(staging) if path.name != "neffd.lock"]
