"""Which files of a repo go to LFS, and which are ignored: `.gitattributes`, `.gitignore`, binary samples."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate
from functools import lru_cache

_LFS_PATTERNS = (
    "*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack *.npy *.npz *.onnx "
    "*.ot *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors saved_model/**/* *.tar.* *.tar *.tflite *.tgz "
    "*.wasm *.xz *.zip *.zst *tfevents*"
)

INITIAL_GITATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in _LFS_PATTERNS.split())

_REGULAR_LIMIT_BYTES = 10 * 1024 * 1024
_FULL_SAMPLE_BYTES = 512


def lfs_patterns(gitattributes: str) -> list[str]:
    """Return the patterns whose attributes contain `filter=lfs`."""
    rows = (line.split() for line in gitattributes.splitlines() if not line.lstrip().startswith("#"))
    return [row[0] for row in rows if "filter=lfs" in row[1:]]


def ignore_patterns(gitignore: str) -> list[str]:
    lines = (line.strip() for line in gitignore.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


@lru_cache(maxsize=64)
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for all patterns: a large seed asks for tens of thousands of paths."""
    return re.compile("|".join(map(translate, patterns)) or r"(?!)")


def matches_attribute(path: str, patterns: Sequence[str]) -> bool:
    """Tell whether a path matches: patterns without `/` are for the file name, others for the whole path."""
    for_name = tuple(pattern for pattern in patterns if "/" not in pattern)
    for_path = tuple(pattern.replace("**/", "*") for pattern in patterns if "/" in pattern)
    name = path.rpartition("/")[2]
    return bool(_any_of(for_name).match(name) or _any_of(for_path).match(path))


def is_ignored(path: str, patterns: Sequence[str]) -> bool:
    ignored = _any_of(tuple(patterns))
    return bool(ignored.match(path) or ignored.match(path.rpartition("/")[2]))


def is_binary(sample: bytes) -> bool:
    """Tell whether the first bytes of a file are not text."""
    if b"\0" in sample:
        return True
    # A full sample may end in the middle of a character.
    text = sample[:-3] if len(sample) >= _FULL_SAMPLE_BYTES else sample
    try:
        text.decode()
    except UnicodeDecodeError:
        return True
    return False


def upload_mode(path: str, size_bytes: int, sample: bytes, patterns: Sequence[str]) -> str:
    """Return `lfs` or `regular` for a file about to be uploaded."""
    if size_bytes == 0:
        return "regular"
    if size_bytes > _REGULAR_LIMIT_BYTES or matches_attribute(path, patterns) or is_binary(sample):
        return "lfs"
    return "regular"
