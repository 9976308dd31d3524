"""How Xet prints 32-byte hashes.

Format: the bytes are four little-endian u64, printed as hex one after another (https://huggingface.co/docs/xet),
so that every 8 bytes appear reversed.
"""

from __future__ import annotations

import re

EMPTY_FILE_HASH = "0" * 64
"""The hash of an empty file; nothing is stored for it."""

_HASH_STRING = re.compile(r"[0-9a-f]{64}")


def _permute(raw: bytes) -> bytes:
    return b"".join(raw[start : start + 8][::-1] for start in range(0, 32, 8))


def is_hash_string(text: str) -> bool:
    return _HASH_STRING.fullmatch(text) is not None


def hash_string(raw: bytes) -> str:
    """Return the printed form of 32 raw bytes.

    Raises:
        ValueError: not 32 bytes.
    """
    if len(raw) != 32:
        raise ValueError(f"a hash has 32 bytes, not {len(raw)}")
    return _permute(raw).hex()


def hash_bytes(text: str) -> bytes:
    """Return the raw bytes of a printed hash.

    Raises:
        ValueError: not 64 lower-case hex digits.
    """
    if not is_hash_string(text):
        raise ValueError(f"not a hash: {text!r}")
    return _permute(bytes.fromhex(text))
