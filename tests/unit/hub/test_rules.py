"""Rules without a network: ranges, cursors, quota windows, faults, attributes, keys, settings."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hub.attributes import (
    INITIAL_GITATTRIBUTES,
    ignore_patterns,
    is_binary,
    is_ignored,
    lfs_patterns,
    upload_mode,
)
from tests.hub.buckets import valid_key
from tests.hub.errors import HubError
from tests.hub.faults import Fault, Faults
from tests.hub.pagination import decode_cursor, encode_cursor
from tests.hub.ranges import Unsatisfiable, parse_range
from tests.hub.ratelimit import FixedWindows, RateLimits, kind_of
from tests.hub.settings import Settings


@pytest.mark.parametrize(
    ("header", "span"),
    [
        (None, None),
        ("bytes=0-", (0, 10)),
        ("bytes=3-5", (3, 6)),
        ("bytes=3-99", (3, 10)),
        ("bytes=9-9", (9, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        ("bytes=-", None),
        ("bytes=5-3", None),
        ("bytes=0-1,3-4", None),
        ("items=0-1", None),
    ],
)
def test_range_of_ten_bytes(header: str | None, span: tuple[int, int] | None) -> None:
    assert parse_range(header, 10) == span


@pytest.mark.parametrize(
    ("header", "size_bytes"), [("bytes=10-", 10), ("bytes=0-0", 0), ("bytes=-1", 0), ("bytes=-0", 9)]
)
def test_range_past_the_end(header: str, size_bytes: int) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(header, size_bytes)


@settings(database=None, deadline=None)
@given(st.integers(0, 10**9))
def test_cursor_gives_back_its_offset(offset: int) -> None:
    assert decode_cursor(encode_cursor(offset)) == offset


@pytest.mark.parametrize("cursor", ["x", "!!!!", "YXQ6LTE=", "MTA="])
def test_foreign_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(ValueError, match="Invalid cursor"):
        decode_cursor(cursor)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_window_starts_with_its_first_use_and_ends_on_time() -> None:
    clock = Clock()
    windows = FixedWindows(clock)
    key = ("api", "token")
    assert [windows.take(key, 2, 300) for _ in range(3)] == [True, True, False]
    clock.now_s += 299.5
    assert (windows.left(key, 2, 300), windows.resets_in_s(key, 300)) == (0, 1)
    assert windows.take(key, 2, 300) is False
    clock.now_s += 0.5
    assert windows.left(key, 2, 300) == 2
    assert windows.take(key, 2, 300) is True


def test_quota_headers_count_down_and_the_refusal_has_the_chosen_form() -> None:
    switches = Settings(api_quota=2)
    limits = RateLimits(switches, Clock())
    policy = '"fixed window";"api";q=2;w=300'
    assert limits.take_request("t", "/api/x") == {"RateLimit": '"api";r=1;t=300', "RateLimit-Policy": policy}
    assert limits.take_request("t", "/api/x") == {"RateLimit": '"api";r=0;t=300', "RateLimit-Policy": policy}
    refusals = {}
    for form in ("ratelimit", "retry-after", "both"):
        switches.update({"quota_headers": form})
        with pytest.raises(HubError) as caught:
            limits.take_request("t", "/api/x")
        assert caught.value.status == 429
        refusals[form] = caught.value.headers
    assert refusals["ratelimit"] == {"RateLimit": '"api";r=0;t=300', "RateLimit-Policy": policy}
    assert refusals["retry-after"] == {"Retry-After": "300"}
    assert refusals["both"] == refusals["ratelimit"] | refusals["retry-after"]


def test_quotas_are_per_token_and_kind() -> None:
    limits = RateLimits(Settings(api_quota=1, resolver_quota=1), Clock())
    for token in ("one", "two", None):
        assert limits.take_request(token, "/api/x")
        assert limits.take_request(token, "/a/b/resolve/main/c")
    assert limits.take_request("one", "/a/b.git/info/lfs/verify") == {}
    with pytest.raises(HubError):
        limits.take_request("one", "/api/y")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/api/models/a/b", "api"),
        ("/a/b/resolve/main/c", "resolvers"),
        ("/buckets/a/b/resolve/c", "resolvers"),
        ("/a/b.git/info/lfs/objects/batch", None),
    ],
)
def test_kind_of_request(path: str, kind: str | None) -> None:
    assert kind_of(path) == kind


def test_commit_quota_counts_landed_commits_per_user() -> None:
    clock = Clock()
    limits = RateLimits(Settings(commit_quota=2), clock)
    for _ in range(2):
        limits.check_commit("alice")
        limits.count_commit("alice")
    with pytest.raises(HubError, match=r"You have exceeded the rate limit for repository commits \(2 per hour\)"):
        limits.check_commit("alice")
    limits.check_commit("bob")
    clock.now_s += 3600
    limits.check_commit("alice")


def test_fault_is_skipped_then_counted_down() -> None:
    faults = Faults()
    faults.add(Fault(r"^GET /api/", skip=1, times=2))
    hits = [faults.take("GET /api/x") is not None for _ in range(5)]
    assert hits == [False, True, True, False, False]
    assert faults.take("POST /api/x") is None


def test_first_fault_with_times_left_wins_and_none_means_always() -> None:
    faults = Faults()
    once, always = Fault("x", status=500), Fault("x", status=503, times=None)
    faults.add(once)
    faults.add(always)
    assert [faults.take("GET /x") for _ in range(3)] == [once, always, always]
    faults.give_back(once)
    assert faults.take("GET /x") is once


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "match"),
        ({"match": "("}, "no regular expression"),
        ({"match": "x", "kind": "explode"}, "kind must be one of"),
        ({"match": "x", "colour": "red"}, "colour"),
        ({"match": "x", "kind": "corrupt", "landed": True}, "landed means nothing"),
        ({"match": "x", "kind": "slow", "bytes_per_s": 0}, "above 0"),
    ],
)
def test_wrong_fault_is_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Fault.parse(options)


def test_settings_change_all_or_nothing() -> None:
    switches = Settings()
    with pytest.raises(ValueError, match="latency"):
        switches.update({"commit_s": 3, "latency": 1})
    for wrong in ({"commit_s": "3"}, {"commit_s": -1}, {"grants": 1}, {"cas": "local"}, {"latency_s": None}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            switches.update(wrong)
    assert switches == Settings()
    switches.update({"commit_s": 3, "api_quota": 10})
    switches.update({"api_quota": None})
    assert (switches.commit_s, switches.api_quota) == (3, None)


def test_initial_attributes() -> None:
    assert len(INITIAL_GITATTRIBUTES) == 1519
    assert INITIAL_GITATTRIBUTES.startswith("*.7z filter=lfs diff=lfs merge=lfs -text\n*.arrow ")
    assert len(lfs_patterns(INITIAL_GITATTRIBUTES)) == 35


@pytest.mark.parametrize(
    ("path", "size_bytes", "sample", "mode"),
    [
        ("k/model.hlo_module.pb", 10, b"text", "lfs"),
        ("k/model.neff", 10, b"\0binary", "lfs"),
        ("k/model.neff", 10, b"text", "regular"),
        ("k/model.done", 0, b"", "regular"),
        ("empty.bin", 0, b"", "regular"),
        ("big.txt", 10 * 1024 * 1024 + 1, b"text", "lfs"),
        ("big.txt", 10 * 1024 * 1024, b"text", "regular"),
        ("saved_model/a/b", 10, b"text", "lfs"),
        ("x/saved_model/a/b", 10, b"text", "regular"),
        ("run.tfevents", 10, b"text", "lfs"),
        ("run.events", 10, b"text", "regular"),
    ],
)
def test_upload_mode(path: str, size_bytes: int, sample: bytes, mode: str) -> None:
    assert upload_mode(path, size_bytes, sample, lfs_patterns(INITIAL_GITATTRIBUTES)) == mode


def test_cut_character_at_the_end_of_a_full_sample_is_text() -> None:
    sample = ("x" + "ü" * 300).encode()[:512]
    assert not is_binary(sample)
    assert is_binary(sample[:-1] + b"\0")
    assert is_binary(b"\xff\xfe")
    assert is_binary(b"ab\xc3")


def test_ignored_paths() -> None:
    patterns = ignore_patterns("# comment\n\n*.tmp\ncache/*\n")
    assert [is_ignored(path, patterns) for path in ("a/b.tmp", "cache/x", "a/cache/x", "keep")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a/..", "a\\b", "a\0b", None])
def test_invalid_keys(path: object) -> None:
    assert not valid_key(path)


@pytest.mark.parametrize("path", ["a", "a/b", ".a", "a.b/..c", "MODULE_1+2/model.neff"])
def test_valid_keys(path: str) -> None:
    assert valid_key(path)
