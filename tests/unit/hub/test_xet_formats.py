"""Hash strings, xorbs, shards and reconstructions."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hub.reconstruction import merge, plan
from tests.hub.xet_hash import EMPTY_FILE_HASH, hash_bytes, hash_string
from tests.hub.xet_shard import RECORD_BYTES, FileRecord, Segment, build_shard, parse_shard
from tests.hub.xet_store import XetStore
from tests.hub.xet_xorb import (
    GROUPED_LZ4,
    HEADER_BYTES,
    LZ4,
    RAW,
    chunk_offsets,
    decode_chunk,
    decode_chunks,
    encode_chunk,
    group,
    ungroup,
)

without_database = settings(database=None, deadline=None)

HASHES = st.binary(min_size=32, max_size=32).map(hash_string)


def a_hash(seed: int) -> str:
    return hashlib.sha256(b"%d" % seed).hexdigest()


def test_hash_string_is_four_little_endian_numbers() -> None:
    printed = "07060504030201000f0e0d0c0b0a090817161514131211101f1e1d1c1b1a1918"
    assert hash_string(bytes(range(32))) == printed
    assert hash_bytes(printed) == bytes(range(32))


@pytest.mark.parametrize("text", ["", "0" * 63, "g" * 64, "A" * 64, "0" * 64 + "\n"])
def test_other_texts_are_no_hash(text: str) -> None:
    with pytest.raises(ValueError, match="not a hash"):
        hash_bytes(text)


def test_grouping_puts_every_fourth_byte_together() -> None:
    assert group(b"abcdABCD01") == b"aA0bB1cCdD"


@without_database
@given(st.binary(max_size=3000))
def test_grouping_is_undone(content: bytes) -> None:
    assert ungroup(group(content)) == content


@without_database
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=3000), st.sampled_from([RAW, LZ4, GROUPED_LZ4])), max_size=5))
def test_xorb_gives_back_its_chunks(chunks: list[tuple[bytes, int]]) -> None:
    xorb = b"".join(encode_chunk(content, scheme) for content, scheme in chunks)
    offsets = chunk_offsets(xorb)
    assert len(offsets) == len(chunks) + 1
    for index, (content, _) in enumerate(chunks):
        assert decode_chunks(xorb, offsets, index, index + 1) == content
    assert decode_chunks(xorb, offsets, 0, len(chunks)) == b"".join(content for content, _ in chunks)


def test_chunk_header_layout() -> None:
    assert encode_chunk(b"abc", RAW) == bytes([0, 3, 0, 0, RAW, 3, 0, 0]) + b"abc"
    long = encode_chunk(b"x" * 0x010203, LZ4)
    assert long[5:HEADER_BYTES] == bytes([3, 2, 1])


def test_offsets_stop_at_the_footer() -> None:
    chunk = encode_chunk(b"abc", RAW)
    assert chunk_offsets(chunk + b"XETBLOB") == (0, len(chunk))
    assert chunk_offsets(b"") == (0,)


@pytest.mark.parametrize("cut", [1, 7, 9])
def test_cut_xorb_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="ends inside a chunk"):
        chunk_offsets(encode_chunk(b"abc", RAW)[:cut])


def test_chunk_of_another_length_is_refused() -> None:
    lying = bytearray(encode_chunk(b"abc", LZ4))
    lying[5] = 4
    with pytest.raises(ValueError, match="holds 3 bytes, not 4"):
        decode_chunk(bytes(lying))
    with pytest.raises(ValueError, match="not an LZ4 frame"):
        decode_chunk(bytes([0, 3, 0, 0, LZ4, 3, 0, 0]) + b"abc")


SEGMENTS = st.builds(Segment, HASHES, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
FILES = st.builds(
    FileRecord,
    HASHES.filter(lambda text: text != "f" * 64),
    st.lists(SEGMENTS, max_size=4).map(tuple),
    st.none() | HASHES,
)


@without_database
@given(st.lists(FILES, max_size=4))
def test_shard_gives_back_its_files(files: list[FileRecord]) -> None:
    assert parse_shard(build_shard(files)) == files


def test_shard_layout() -> None:
    record = FileRecord(a_hash(1), (Segment(a_hash(2), 1000, 3, 5),), hashlib.sha256(b"x").hexdigest())
    shard = build_shard([record])
    assert shard[:32].hex() == b"HFRepoMetaData\0".hex() + "556967456a7b815783a5bdd95ccdd14aa9"
    assert (shard[32], shard[40]) == (2, 0)
    assert shard[48:80] == hash_bytes(a_hash(1))
    assert int.from_bytes(shard[80:84], "little") == 0xC0000000
    # Header, file, segment, verification, metadata, and one end record for each section.
    assert len(shard) == 7 * RECORD_BYTES
    # An upload with c chunks has one xorb record and c chunk records more: 384 + 48 c in all.
    assert len(shard) + RECORD_BYTES == 384


def test_no_shard_is_refused() -> None:
    shard = build_shard([FileRecord(a_hash(1), (Segment(a_hash(2), 1, 0, 1),))])
    for broken in (b"", b"x" * 96, shard[:50], shard[: 3 * RECORD_BYTES]):
        with pytest.raises(ValueError, match="shard"):
            parse_shard(broken)
    with pytest.raises(ValueError, match="version"):
        parse_shard(shard[:32] + b"\3" + shard[33:])


OFFSETS = (0, 10, 30, 60, 100)
RECORD = FileRecord(
    a_hash(0), (Segment(a_hash(1), 50, 0, 2), Segment(a_hash(2), 30, 1, 2), Segment(a_hash(1), 20, 2, 3))
)


def test_whole_file_is_planned_with_merged_fetches() -> None:
    wanted = plan(RECORD, lambda xorb: OFFSETS)
    assert (wanted.skip_bytes, wanted.terms) == (0, RECORD.segments)
    body = wanted.as_v2(lambda xorb, first, last: f"{xorb[:4]}/{first}-{last}")
    assert body["xorbs"][a_hash(1)] == [
        {
            "url": f"{a_hash(1)[:4]}/0-59",
            "ranges": [{"chunks": {"start": 0, "end": 3}, "bytes": {"start": 0, "end": 59}}],
        }
    ]
    v1 = wanted.as_v1(lambda xorb, first, last: "url")
    assert v1["fetch_info"][a_hash(2)] == [
        {"range": {"start": 1, "end": 2}, "url": "url", "url_range": {"start": 10, "end": 29}}
    ]
    assert v1["terms"][1] == {"hash": a_hash(2), "unpacked_length": 30, "range": {"start": 1, "end": 2}}


def test_range_keeps_only_the_terms_it_touches() -> None:
    wanted = plan(RECORD, lambda xorb: OFFSETS, (55, 80))
    assert (wanted.skip_bytes, wanted.terms) == (5, (RECORD.segments[1],))
    across = plan(RECORD, lambda xorb: OFFSETS, (49, 51))
    assert (across.skip_bytes, across.terms) == (49, RECORD.segments[:2])


def test_ranges_apart_are_not_merged() -> None:
    xorb = a_hash(1)
    segments = [Segment(xorb, 1, 5, 6), Segment(xorb, 1, 0, 2), Segment(xorb, 1, 1, 3)]
    assert merge(segments) == [(xorb, 0, 3), (xorb, 5, 6)]


def test_store_rebuilds_contents_and_checks_their_sha256(tmp_path: Path) -> None:
    store = XetStore(tmp_path)
    chunks = [b"a" * 100, b"b" * 50, b"c" * 10]
    xorb = b"".join(encode_chunk(chunk, scheme) for chunk, scheme in zip(chunks, (RAW, LZ4, GROUPED_LZ4), strict=True))
    assert store.put_xorb(a_hash(1), xorb) is True
    assert store.put_xorb(a_hash(1), xorb) is False
    content = chunks[1] + chunks[2] + chunks[0]
    segments = (Segment(a_hash(1), 60, 1, 3), Segment(a_hash(1), 100, 0, 1))
    right = FileRecord(a_hash(2), segments, hashlib.sha256(content).hexdigest())
    wrong = FileRecord(a_hash(3), segments, hashlib.sha256(b"something else").hexdigest())
    assert store.add_shard(build_shard([right, wrong])) == 2
    again = XetStore(tmp_path)
    path = again.content_path(right.hash)
    assert path is not None
    assert path.read_bytes() == content
    assert again.by_sha256(str(right.sha256)) == right
    with pytest.raises(ValueError, match="does not have the sha256"):
        again.content_path(wrong.hash)


def test_store_refuses_shards_with_unknown_chunks(tmp_path: Path) -> None:
    store = XetStore(tmp_path)
    store.put_xorb(a_hash(1), encode_chunk(b"abc", RAW))
    for segment in (Segment(a_hash(9), 3, 0, 1), Segment(a_hash(1), 3, 0, 2), Segment(a_hash(1), 3, 1, 1)):
        with pytest.raises(ValueError, match="xorb"):
            store.add_shard(build_shard([FileRecord(a_hash(2), (segment,))]))
    assert store.record(a_hash(2)) is None


def test_empty_file_needs_no_record(tmp_path: Path) -> None:
    path = XetStore(tmp_path).content_path(EMPTY_FILE_HASH)
    assert path is not None
    assert path.read_bytes() == b""
