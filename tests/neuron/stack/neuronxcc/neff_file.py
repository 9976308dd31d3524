"""The NEFF container: a header of 1024 bytes, little-endian, then a tar ball."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
from dataclasses import dataclass

HEADER_BYTES = 1024
_HEADER = struct.Struct("<5Q128sI32s16s256sI64sQI")
_PACKAGE_VERSION = 2  # the header's hash is a sha256 of the tar ball


@dataclass(frozen=True)
class NeffHeader:
    package_version: int
    header_bytes: int
    data_bytes: int
    version_major: int
    version_minor: int
    build_version: str
    tpb_count: int
    data_hash: bytes
    uuid: bytes
    name: str
    requested_tpb_count: int
    tpb_per_node: bytes
    feature_bits: int
    lnc_size: int


def build(*, name: str, version: str, uuid: bytes, files: dict[str, bytes], lnc_size: int) -> bytes:
    data = _tar_ball(files)
    header = _HEADER.pack(
        _PACKAGE_VERSION,
        HEADER_BYTES,
        len(data),
        2,
        0,
        version.encode(),
        1,
        hashlib.sha256(data).digest(),
        uuid,
        name.encode()[:255],
        1,
        bytes([1]),
        0,
        lnc_size,
    )
    return header.ljust(HEADER_BYTES, b"\0") + data


def parse_header(neff: bytes) -> NeffHeader:
    fields = list(_HEADER.unpack_from(neff))
    for text_field in (5, 9):
        fields[text_field] = fields[text_field].rstrip(b"\0").decode()
    return NeffHeader(*fields)


def _tar_ball(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def graph_files(digest: bytes, payload_bytes: int) -> dict[str, bytes]:
    """What one sub-graph looks like; the same digest gives the same bytes."""
    definition = {"name": "sg00", "graph": digest.hex(), "engines": ["pe"]}
    top = {"neff": {"sub_graphs": ["sg00"]}}
    return {
        "neff.json": json.dumps(top).encode(),
        "hlo_stats.json": json.dumps({"payload_bytes": payload_bytes}).encode(),
        "sg00/def.json": json.dumps(definition).encode(),
        "sg00/pe.bin": hashlib.shake_256(digest).digest(payload_bytes),
    }
