"""How a file is put together from xorb chunks, as the CAS tells its clients (versions 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.hub.xet_shard import FileRecord, Segment

Offsets = Callable[[str], Sequence[int]]
DataUrl = Callable[[str, int, int], str]


@dataclass(frozen=True)
class FetchRange:
    """Chunks [start, end) of a xorb and the bytes they take in it, the last one included."""

    xorb: str
    start: int
    end: int
    first_byte: int
    last_byte: int


@dataclass(frozen=True)
class Plan:
    """Terms in file order and what to fetch for them."""

    skip_bytes: int
    terms: tuple[Segment, ...]
    fetches: tuple[FetchRange, ...]

    def _terms(self) -> dict[str, Any]:
        terms = [
            {"hash": term.xorb, "unpacked_length": term.unpacked_bytes, "range": {"start": term.start, "end": term.end}}
            for term in self.terms
        ]
        return {"offset_into_first_range": self.skip_bytes, "terms": terms}

    def as_v1(self, data_url: DataUrl) -> dict[str, Any]:
        info: dict[str, list[dict[str, Any]]] = {}
        for fetch in self.fetches:
            item = {
                "range": {"start": fetch.start, "end": fetch.end},
                "url": data_url(fetch.xorb, fetch.first_byte, fetch.last_byte),
                "url_range": {"start": fetch.first_byte, "end": fetch.last_byte},
            }
            info.setdefault(fetch.xorb, []).append(item)
        return {**self._terms(), "fetch_info": info}

    def as_v2(self, data_url: DataUrl) -> dict[str, Any]:
        xorbs: dict[str, list[dict[str, Any]]] = {}
        for fetch in self.fetches:
            item = {
                "chunks": {"start": fetch.start, "end": fetch.end},
                "bytes": {"start": fetch.first_byte, "end": fetch.last_byte},
            }
            url = data_url(fetch.xorb, fetch.first_byte, fetch.last_byte)
            xorbs.setdefault(fetch.xorb, []).append({"url": url, "ranges": [item]})
        return {**self._terms(), "xorbs": xorbs}


def plan(record: FileRecord, offsets: Offsets, span: tuple[int, int] | None = None) -> Plan:
    """Work out the terms and fetches for a file.

    Args:
        offsets: gives the chunk offsets of a xorb.
        span: wanted bytes [start, end) of the file; None for all of it.
    """
    low, high = span or (0, record.size_bytes)
    kept: list[Segment] = []
    skip_bytes = 0
    at = 0
    for segment in record.segments:
        if at < high and at + segment.unpacked_bytes > low:
            if not kept:
                skip_bytes = low - at
            kept.append(segment)
        at += segment.unpacked_bytes
    fetches = (_fetch(xorb, start, end, offsets) for xorb, start, end in merge(kept))
    return Plan(skip_bytes, tuple(kept), tuple(fetches))


def merge(segments: Iterable[Segment]) -> list[tuple[str, int, int]]:
    """Return each xorb's chunk ranges, those that touch or overlap made one."""
    merged: list[tuple[str, int, int]] = []
    for xorb, start, end in sorted((segment.xorb, segment.start, segment.end) for segment in segments):
        if merged and merged[-1][0] == xorb and start <= merged[-1][2]:
            merged[-1] = (xorb, merged[-1][1], max(end, merged[-1][2]))
        else:
            merged.append((xorb, start, end))
    return merged


def _fetch(xorb: str, start: int, end: int, offsets: Offsets) -> FetchRange:
    bounds = offsets(xorb)
    return FetchRange(xorb, start, end, bounds[start], bounds[end] - 1)
