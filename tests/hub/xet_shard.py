"""Shards: which parts of which xorbs make up which files.

Format (https://huggingface.co/docs/xet): a 48-byte header, then 48-byte records, all integers little-endian.
Uploaded shards have no footer; what follows the file section is ignored.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.hub.xet_hash import hash_bytes, hash_string

RECORD_BYTES = 48
_MAGIC = b"HFRepoMetaData\0" + bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")
_VERSION = 2
_HEADER = struct.Struct("<32sQQ")
_FILE = struct.Struct("<32sIIQ")
_SEGMENT = struct.Struct("<32sIIII")
_HASH_RECORD = struct.Struct("<32s16x")
_END_OF_SECTION = b"\xff" * 32
_WITH_VERIFICATION = 1 << 31
_WITH_METADATA = 1 << 30


@dataclass(frozen=True)
class Segment:
    """Chunks [start, end) of a xorb, which hold `unpacked_bytes` of the file."""

    xorb: str
    unpacked_bytes: int
    start: int
    end: int


@dataclass(frozen=True)
class FileRecord:
    """A file in a shard; bucket uploads come without a sha256."""

    hash: str
    segments: tuple[Segment, ...]
    sha256: str | None = None

    @property
    def size_bytes(self) -> int:
        return sum(segment.unpacked_bytes for segment in self.segments)


def parse_shard(shard: bytes) -> list[FileRecord]:
    """Return the files of a shard.

    Raises:
        ValueError: wrong magic or version, or the file section is cut short.
    """
    if len(shard) < RECORD_BYTES or not shard.startswith(_MAGIC):
        raise ValueError("not a shard")
    if _HEADER.unpack_from(shard)[1] != _VERSION:
        raise ValueError(f"unknown shard version: {_HEADER.unpack_from(shard)[1]}")
    try:
        return list(_files(shard))
    except struct.error as error:
        raise ValueError("the shard ends inside its file section") from error


def _files(shard: bytes) -> Iterator[FileRecord]:
    at = RECORD_BYTES
    while True:
        raw_hash, flags, count, _ = _FILE.unpack_from(shard, at)
        at += RECORD_BYTES
        if raw_hash == _END_OF_SECTION:
            return
        segments = tuple(_segment(shard, at + index * RECORD_BYTES) for index in range(count))
        at += count * RECORD_BYTES
        if flags & _WITH_VERIFICATION:
            at += count * RECORD_BYTES
        sha256 = None
        if flags & _WITH_METADATA:
            sha256 = hash_string(_HASH_RECORD.unpack_from(shard, at)[0])
            at += RECORD_BYTES
        yield FileRecord(hash_string(raw_hash), segments, sha256)


def _segment(shard: bytes, at: int) -> Segment:
    raw_hash, _, unpacked_bytes, start, end = _SEGMENT.unpack_from(shard, at)
    return Segment(hash_string(raw_hash), unpacked_bytes, start, end)


def build_shard(files: Sequence[FileRecord]) -> bytes:
    """Return a shard with these files, zero verification records and an empty xorb section."""
    parts = [_HEADER.pack(_MAGIC, _VERSION, 0)]
    for file in files:
        flags = _WITH_VERIFICATION | (_WITH_METADATA if file.sha256 else 0)
        parts.append(_FILE.pack(hash_bytes(file.hash), flags, len(file.segments), 0))
        parts += [
            _SEGMENT.pack(hash_bytes(segment.xorb), 0, segment.unpacked_bytes, segment.start, segment.end)
            for segment in file.segments
        ]
        parts.append(bytes(RECORD_BYTES * len(file.segments)))
        if file.sha256:
            parts.append(_HASH_RECORD.pack(hash_bytes(file.sha256)))
    parts.append(_FILE.pack(_END_OF_SECTION, 0, 0, 0) * 2)
    return b"".join(parts)
