"""Xorbs: sequences of compressed chunks.

Format (https://huggingface.co/docs/xet): per chunk an 8-byte header, little-endian: version 0 (1 byte), compressed
length (3), scheme (1), uncompressed length (3); then the payload. A non-zero version byte starts the footer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import lz4.frame

HEADER_BYTES = 8
RAW, LZ4, GROUPED_LZ4 = range(3)
_GROUPS = 4


def chunk_offsets(xorb: bytes) -> tuple[int, ...]:
    """Return where each chunk starts, and at the end where the last one ends; (0,) if there is no chunk.

    Raises:
        ValueError: a chunk is cut short, or its scheme is unknown.
    """
    offsets = [0]
    while (at := offsets[-1]) < len(xorb) and xorb[at] == 0:
        end = at + HEADER_BYTES + int.from_bytes(xorb[at + 1 : at + 4], "little")
        if at + HEADER_BYTES > len(xorb) or end > len(xorb):
            raise ValueError("the xorb ends inside a chunk")
        if xorb[at + 4] > GROUPED_LZ4:
            raise ValueError(f"unknown compression scheme: {xorb[at + 4]}")
        offsets.append(end)
    return tuple(offsets)


def decode_chunk(chunk: bytes) -> bytes:
    """Return the content of one chunk, given with its header.

    Raises:
        ValueError: the payload does not give the announced length, or the scheme is unknown.
    """
    scheme, length = chunk[4], int.from_bytes(chunk[5:8], "little")
    payload = chunk[HEADER_BYTES:]
    if scheme == RAW:
        content = payload
    elif scheme in (LZ4, GROUPED_LZ4):
        try:
            content = bytes(lz4.frame.decompress(payload))
        except RuntimeError as error:
            raise ValueError(f"not an LZ4 frame: {error}") from error
        if scheme == GROUPED_LZ4:
            content = ungroup(content)
    else:
        raise ValueError(f"unknown compression scheme: {scheme}")
    if len(content) != length:
        raise ValueError(f"the chunk holds {len(content)} bytes, not {length}")
    return content


def encode_chunk(content: bytes, scheme: int) -> bytes:
    """Return a chunk with its header.

    Raises:
        ValueError: unknown scheme, or more content than a 3-byte length can state.
    """
    if scheme not in (RAW, LZ4, GROUPED_LZ4):
        raise ValueError(f"unknown compression scheme: {scheme}")
    plain = group(content) if scheme == GROUPED_LZ4 else content
    payload = plain if scheme == RAW else bytes(lz4.frame.compress(plain))
    if max(len(payload), len(content)) >= 1 << 24:
        raise ValueError(f"too large for a chunk: {len(content)} bytes")
    lengths = len(payload).to_bytes(3, "little"), len(content).to_bytes(3, "little")
    return b"\0" + lengths[0] + bytes([scheme]) + lengths[1] + payload


def decode_chunks(xorb: bytes, offsets: Sequence[int], start: int, end: int) -> bytes:
    """Return the content of the chunks [start, end) of a xorb."""
    return b"".join(decode_chunk(xorb[low:high]) for low, high in pairwise(offsets[start : end + 1]))


def group(content: bytes) -> bytes:
    """Put the bytes of positions i, i+4, i+8, ... together, for i = 0 to 3."""
    return b"".join(content[start::_GROUPS] for start in range(_GROUPS))


def ungroup(grouped: bytes) -> bytes:
    """Undo `group`."""
    content = bytearray(len(grouped))
    at = 0
    for start in range(_GROUPS):
        length = len(range(start, len(grouped), _GROUPS))
        content[start::_GROUPS] = grouped[at : at + length]
        at += length
    return bytes(content)
