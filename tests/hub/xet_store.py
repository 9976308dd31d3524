"""Xorbs, file records and their index by sha256, on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from tests.hub.files import fanned, read_json, write_atomic, write_json
from tests.hub.xet_hash import EMPTY_FILE_HASH
from tests.hub.xet_shard import FileRecord, Segment, parse_shard
from tests.hub.xet_xorb import RAW, chunk_offsets, decode_chunks, encode_chunk

_SEED_CHUNK_BYTES = 64 * 1024
_SEED_XORB_BYTES = 32 * 1024 * 1024


class XetStore:
    """Files as sequences of xorb chunks; plain contents are rebuilt on demand and kept."""

    def __init__(self, root: Path) -> None:
        self._xorbs = root / "xorbs"
        self._staged = root / "staged"
        self._records = root / "files"
        self._by_sha256 = root / "sha256"
        self._contents = root / "contents"
        self._rebuilding = threading.Lock()
        self.offsets: Callable[[str], tuple[int, ...]] = lru_cache(maxsize=4096)(self._read_offsets)
        """Chunk offsets of a xorb."""

    def has_xorb(self, xorb: str) -> bool:
        return fanned(self._xorbs, xorb).is_file()

    def xorb_path(self, xorb: str) -> Path:
        return fanned(self._xorbs, xorb)

    def _read_offsets(self, xorb: str) -> tuple[int, ...]:
        return chunk_offsets(self.xorb_path(xorb).read_bytes())

    def put_xorb(self, xorb: str, data: bytes) -> bool:
        """Store a xorb; False if it was there already.

        Raises:
            ValueError: the data holds no chunk.
        """
        check_xorb(data)
        if self.has_xorb(xorb):
            return False
        write_atomic(self.xorb_path(xorb), data)
        return True

    def stage_xorb(self, grant: str, data: bytes) -> None:
        """Keep an uploaded xorb aside until its grant is committed.

        Raises:
            ValueError: the data holds no chunk.
        """
        check_xorb(data)
        write_atomic(self._staged / grant, data)

    def commit_staged(self, grant: str, xorb: str) -> None:
        """Move a staged xorb to its place.

        Raises:
            FileNotFoundError: nothing was staged under this grant.
        """
        target = self.xorb_path(xorb)
        target.parent.mkdir(parents=True, exist_ok=True)
        (self._staged / grant).replace(target)

    def add_shard(self, shard: bytes) -> int:
        """Record the files of a shard and return how many there are.

        Raises:
            ValueError: no shard, or it names chunks that are not stored.
        """
        records = parse_shard(shard)
        for record in records:
            for segment in record.segments:
                self._check_segment(segment)
        for record in records:
            self.add_record(record)
        return len(records)

    def _check_segment(self, segment: Segment) -> None:
        if not self.has_xorb(segment.xorb):
            raise ValueError(f"xorb not found: {segment.xorb}")
        count = len(self.offsets(segment.xorb)) - 1
        if not segment.start < segment.end <= count:
            raise ValueError(f"xorb {segment.xorb} has {count} chunks, not [{segment.start}, {segment.end})")

    def add_record(self, record: FileRecord) -> None:
        write_json(fanned(self._records, record.hash), dataclasses.asdict(record))
        if record.sha256:
            write_atomic(fanned(self._by_sha256, record.sha256), record.hash.encode())

    def record(self, file_hash: str) -> FileRecord | None:
        """Return what is known of a file; the empty file is always known."""
        if file_hash == EMPTY_FILE_HASH:
            return FileRecord(file_hash, ())
        value = read_json(fanned(self._records, file_hash))
        if value is None:
            return None
        segments = tuple(Segment(**segment) for segment in value["segments"])
        return FileRecord(value["hash"], segments, value["sha256"])

    def by_sha256(self, sha256: str) -> FileRecord | None:
        """Return the file whose shard stated this sha256."""
        try:
            return self.record(fanned(self._by_sha256, sha256).read_text())
        except FileNotFoundError:
            return None

    def content_path(self, file_hash: str) -> Path | None:
        """Return a file with the plain content, rebuilt from xorbs the first time; None for an unknown hash.

        Raises:
            ValueError: the content is not what the shard's sha256 says.
        """
        record = self.record(file_hash)
        if record is None:
            return None
        path = fanned(self._contents, file_hash)
        with self._rebuilding:
            if not path.exists():
                write_atomic(path, self._rebuild(record))
        return path

    def _rebuild(self, record: FileRecord) -> bytes:
        content = b"".join(
            decode_chunks(
                self.xorb_path(segment.xorb).read_bytes(), self.offsets(segment.xorb), segment.start, segment.end
            )
            for segment in record.segments
        )
        if record.sha256 and hashlib.sha256(content).hexdigest() != record.sha256:
            raise ValueError(f"file {record.hash} does not have the sha256 that its shard states")
        return content

    def seed(self, content: bytes) -> FileRecord:
        """Store a plain content as if it had been uploaded; its hashes are made up from its sha256."""
        sha256 = hashlib.sha256(content).hexdigest()
        known = self.by_sha256(sha256)
        if known or not content:
            return known or FileRecord(EMPTY_FILE_HASH, (), sha256)
        segments = []
        for start in range(0, len(content), _SEED_XORB_BYTES):
            piece = content[start : start + _SEED_XORB_BYTES]
            chunks = [piece[at : at + _SEED_CHUNK_BYTES] for at in range(0, len(piece), _SEED_CHUNK_BYTES)]
            xorb = hashlib.sha256(f"xorb {start} {sha256}".encode()).hexdigest()
            self.put_xorb(xorb, b"".join(encode_chunk(chunk, RAW) for chunk in chunks))
            segments.append(Segment(xorb, len(piece), 0, len(chunks)))
        record = FileRecord(hashlib.sha256(f"file {sha256}".encode()).hexdigest(), tuple(segments), sha256)
        self.add_record(record)
        return record


def check_xorb(data: bytes) -> None:
    """Raise ValueError if the data is no xorb with at least one chunk."""
    if len(chunk_offsets(data)) < 2:
        raise ValueError("the xorb holds no chunk")
