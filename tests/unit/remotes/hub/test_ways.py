"""The choice between plain GETs and the chunk store."""

from __future__ import annotations

from neffd.remotes.base import RemoteFile
from neffd.remotes.hub.quotas import Quotas
from neffd.remotes.hub.ways import Way, Ways
from tests.unit.clock import Clock

LARGE = RemoteFile("model.neff", 5_000_000, "1" * 64, xet_hash="2" * 64)
SMALL = RemoteFile("compile_flags.json", 100, git_sha1="1" * 40)


def low(quotas: Quotas) -> None:
    quotas.note('"resolvers";r=100;t=30', '"fixed window";"resolvers";q=5000;w=300')


def test_plain_gets_unless_requests_are_scarce() -> None:
    clock = Clock()
    quotas = Quotas(clock)
    ways = Ways(quotas, clock)
    assert ways.choose(LARGE, 1) is Way.GET
    low(quotas)
    assert ways.is_scarce(1)
    assert ways.choose(LARGE, 1) is Way.XET
    assert ways.choose(SMALL, 1) is Way.GET, "it is not in the chunk store"
    clock.pass_s(30)
    assert ways.choose(LARGE, 1) is Way.GET, "the window is over"


def test_a_chunk_store_that_failed_is_left_alone_for_a_while() -> None:
    clock = Clock()
    quotas = Quotas(clock)
    ways = Ways(quotas, clock)
    low(quotas)
    ways.failed()
    assert ways.choose(LARGE, 1) is Way.GET
    clock.pass_s(60)
    low(quotas)
    assert ways.choose(LARGE, 1) is Way.XET


def test_where_xet_is_switched_off() -> None:
    quotas = Quotas(Clock())
    low(quotas)
    assert Ways(quotas, Clock(), has_xet=False).choose(LARGE, 1) is Way.GET
