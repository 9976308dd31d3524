from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neff.cachedir import DEFAULT_CACHE_DIR, cache_root, cache_url


@pytest.mark.parametrize(
    ("flags", "url", "root"),
    [
        ("", "", DEFAULT_CACHE_DIR),
        ("", "/data/cache", "/data/cache"),
        ("", "/data/cache/", "/data/cache"),
        ("", "file:///mnt/cache", "/mnt/cache"),
        ("", "s3://bucket/cache", None),
        ("", "gs://bucket/cache", None),
        ("--cache_dir=/flags", "/data/cache", "/flags"),
        ("--cache_dir=s3://bucket/x", "/data/cache", None),
        ("--cache_dir=/flags", "s3://bucket/x", "/flags"),
        ("-O1 --cache_dir=/flags --model-type=transformer", "", "/flags"),
        ("--cache_dir /flags -O1", "", "/flags"),
        ("--cache_dir=/first --cache_dir=/last", "", "/last"),
        ("--cache_dir='/with space/x'", "", "/with space/x"),
        ('--cache_dir="/v1.2/a:b~c"', "", "/v1.2/a:b~c"),
        ("--cache_dir=file:///mnt/x", "", "/mnt/x"),
        ("--cache_dir=", "/data/cache", "/data/cache"),
        ("--cache_dir", "/data/cache", "/data/cache"),
        ("--cache_directory=/other --no_cache", "", DEFAULT_CACHE_DIR),
        ("--cache_dir=/flags --internal='open", "", "/flags"),
    ],
)
def test_order_of_the_sources(flags: str, url: str, root: str | None) -> None:
    assert cache_root({"NEURON_CC_FLAGS": flags, "NEURON_COMPILE_CACHE_URL": url}) == root


def test_relative_paths_are_those_of_the_process() -> None:
    assert cache_root({"NEURON_COMPILE_CACHE_URL": "cache"}) == os.path.abspath("cache")  # noqa: PTH100


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_COMPILE_CACHE_URL", "/from/environment")
    assert cache_root() == "/from/environment"


@given(st.text())
def test_odd_flags_never_raise_and_the_url_stays_the_fallback(flags: str) -> None:
    url = cache_url({"NEURON_CC_FLAGS": flags, "NEURON_COMPILE_CACHE_URL": "/data/cache"})
    assert url == "/data/cache" or "--cache_dir" in flags.replace("'", "").replace('"', "").replace("\\", "")


@given(st.text(alphabet="abc '\"\\=-", max_size=30), st.text(alphabet="abc/._~:", min_size=1, max_size=30))
def test_a_last_well_formed_flag_wins_over_whatever_stands_before(before: str, path: str) -> None:
    flags = f"{before} --cache_dir=/{path}"
    url = cache_url({"NEURON_CC_FLAGS": flags})
    quoted_or_value = any(mark in before for mark in "'\"\\")
    assert url == f"/{path}" or quoted_or_value
