"""What is left of the Hub's quotas, from the headers that it sends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neffd.remotes.hub.quotas import API, FILES, Quota, Quotas
from tests.unit.clock import Clock

POLICY = '"fixed window";"resolvers";q=5000;w=300'


def test_each_class_by_itself_until_its_window_ends() -> None:
    clock = Clock()
    quotas = Quotas(clock)
    assert quotas.get(API) is None
    quotas.note('"resolvers";r=4000;t=120', POLICY)
    quotas.note('"api";r=7;t=60', '"fixed window";"api";q=1000;w=300')
    assert quotas.get(FILES) == Quota(4000, 5000, clock() + 120)
    assert quotas.get(API) == Quota(7, 1000, clock() + 60)
    clock.pass_s(60)
    assert quotas.get(API) is None
    assert quotas.get(FILES) is not None


@pytest.mark.parametrize(
    ("left", "needed", "is_low"), [(500, 500, False), (500, 501, True), (499, 1, True), (4999, 1, False), (0, 0, True)]
)
def test_low_is_less_than_a_tenth_or_than_what_is_needed(left: int, needed: int, is_low: bool) -> None:
    quotas = Quotas(Clock())
    quotas.note(f'"resolvers";r={left};t=120', POLICY)
    assert quotas.is_low(FILES, needed) is is_low
    assert not quotas.is_low(API, 10**9), "never told, so nobody knows"


def test_low_is_over_with_the_window() -> None:
    clock = Clock()
    quotas = Quotas(clock)
    quotas.note('"resolvers";r=0;t=30', POLICY)
    clock.pass_s(29)
    assert quotas.is_low(FILES, 1)
    clock.pass_s(1)
    assert not quotas.is_low(FILES, 1)


def test_without_a_policy_only_what_is_needed_counts() -> None:
    quotas = Quotas(Clock())
    quotas.note('"resolvers";r=3;t=30', '"fixed window";"api";q=1000;w=300')
    assert not quotas.is_low(FILES, 3)
    assert quotas.is_low(FILES, 4)


@given(st.text() | st.from_regex(r'"[a-z]{1,9}";r=\d+;t=\d+'), st.text())
def test_any_header_is_harmless(rate_limit: str, policy: str) -> None:
    quotas = Quotas(Clock())
    quotas.note(rate_limit, policy)
    quotas.note('"resolvers";r=3;t=30', POLICY)
    assert quotas.is_low(FILES, 4), "what makes sense counts all the same"
