"""Hosts that share a bucket by one rule: every entry ends wholly one host's, however their writes interleave."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neff import keys
from neffd.layouts import xla
from neffd.remotes import provenance
from neffd.remotes.base import PublishResult
from neffd.remotes.hub.bucket_rule import Contest, Own, Picture, Stored, Wait, Write
from neffd.remotes.provenance import FileDigest, Provenance
from tests.harness.entries import NAMESPACE, OLD_NAMESPACE

_FAIR_STEP_S = 0.05
_LIMIT_S = 300.0


def xet_hash(content: bytes) -> str:
    """Stands for hf_xet's: any hash of the content that is not sha256 itself."""
    return hashlib.sha256(b"xet" + content).hexdigest() if content else "0" * 64


def digest(content: bytes) -> FileDigest:
    return FileDigest(len(content), hashlib.sha256(content).hexdigest())


class Bucket:
    """One entry: path by path, the last writer wins."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = dict(files or {})

    def picture(self) -> Picture:
        listed = {file: Stored(len(content), xet_hash(content)) for file, content in self.files.items()}
        statement = self.files.get(provenance.FILE_NAME)
        return Picture(listed, None if statement is None else provenance.parse(statement))


@dataclass(frozen=True)
class Host:
    """What a host has of the entry."""

    namespace: str
    files: dict[str, bytes]
    compile_s: float

    @property
    def provenance(self) -> Provenance:
        return Provenance({file: digest(content) for file, content in self.files.items()}, self.compile_s)

    @property
    def whole(self) -> dict[str, bytes]:
        return {**self.files, provenance.FILE_NAME: self.provenance.encode()}

    def contest(self, patience: float = 1.0) -> Contest:
        hashes = {file: xet_hash(content) for file, content in self.whole.items()}
        return Contest(Own(self.namespace, self.provenance, hashes), patience)

    def operations(self, write: Write) -> Iterator[tuple[str, bytes | None]]:
        """Every path that one write touches, in order; None deletes."""
        for file in write.files:
            yield file, self.files[file]
        yield provenance.FILE_NAME, write.statement.encode()
        for file in write.delete:
            yield file, None
        if write.mark:
            mark = keys.ready_mark(self.namespace)
            yield mark, self.files[mark]


def make_host(namespace: str, neff: int, hlo: int = 0, *, wrapped: int | None = None, compile_s: float = 1.0) -> Host:
    files = {"model.hlo_module.pb": b"hlo %d" % hlo, xla.NEFF: b"neff %d" % neff}
    if wrapped is not None:
        files["wrapped_neff.hlo"] = b"wrapped %d %d" % (neff, wrapped)
    if keys.ready_mark(namespace) == xla.DONE:
        files[xla.DONE] = b""
    return Host(namespace, files, compile_s)


def steps(host: Host, bucket: Bucket, contest: Contest, now: list[float]) -> Iterator[float]:
    """One host at work: yields how long it waits before its next step, 0 where the schedule decides."""
    while True:
        picture = bucket.picture()
        yield 0.0
        move = contest.next(picture, now[0])
        if isinstance(move, PublishResult):
            return
        if isinstance(move, Wait):
            yield move.seconds
            continue
        for file, content in host.operations(move):
            if content is None:
                bucket.files.pop(file, None)
            else:
                bucket.files[file] = content
            yield 0.0


def play(hosts: list[Host], bucket: Bucket, delays: list[float], deaths: dict[int, int]) -> list[Host]:
    """Let all hosts publish at once: the first steps take `delays`, later ones about the same for everybody.

    A host in `deaths` ends after so many steps; returns those that died before they were done.
    """
    now = [0.0]
    running = {
        number: steps(host, bucket, host.contest(1 + number / (2 * len(hosts))), now)
        for number, host in enumerate(hosts)
    }
    agenda = [(0.0, number) for number in running]
    done = dict.fromkeys(running, 0)
    schedule = iter(delays)
    died: list[Host] = []
    while agenda:
        now[0], number = heapq.heappop(agenda)
        assert now[0] < _LIMIT_S, "the hosts never come to rest"
        if done[number] == deaths.get(number):
            died.append(hosts[number])
            continue
        wait_s = next(running[number], None)
        done[number] += 1
        if wait_s is not None:
            heapq.heappush(agenda, (now[0] + (wait_s or next(schedule, _FAIR_STEP_S + number / 1000)), number))
    return died


def assert_whole(hosts: list[Host], bucket: Bucket, namespace: str) -> None:
    picture = bucket.picture()
    assert picture.is_ready(namespace)
    assert picture.stated is not None
    shared = {file: content for file, content in bucket.files.items() if file != provenance.FILE_NAME}
    assert {file: digest(content) for file, content in shared.items()} == picture.stated.files
    makers = [host for host in hosts if host.files[xla.NEFF] == shared[xla.NEFF]]
    for file, content in shared.items():
        assert content in [host.files.get(file) for host in makers], f"{file} is not from a host with this NEFF"
    if len(makers) == 1:
        assert bucket.files == makers[0].whole


NAMESPACES = st.sampled_from([NAMESPACE, OLD_NAMESPACE])
DELAYS = st.lists(st.sampled_from([0.001, 0.01, 0.1, 1.0, 3.0, 9.0]), max_size=150)


@st.composite
def hosts_of(draw: st.DrawFn, namespace: str) -> list[Host]:
    number = st.integers(0, 4)
    wrapped = st.none() | st.just(0)
    return [
        make_host(namespace, draw(number), draw(st.integers(0, 1)), wrapped=draw(wrapped), compile_s=1.0 + index)
        for index in range(draw(st.integers(1, 5)))
    ]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_every_entry_ends_wholly_one_hosts(data: st.DataObject) -> None:
    namespace = data.draw(NAMESPACES)
    hosts = data.draw(hosts_of(namespace))
    bucket = Bucket()
    play(hosts, bucket, data.draw(DELAYS), {})
    assert_whole(hosts, bucket, namespace)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_hosts_that_died_come_back_and_finish(data: st.DataObject) -> None:
    namespace = data.draw(NAMESPACES)
    hosts = data.draw(hosts_of(namespace))
    bucket = Bucket()
    deaths = {number: data.draw(st.integers(0, 20)) for number in range(len(hosts))}
    died = play(hosts, bucket, data.draw(DELAYS), deaths)
    play(died, bucket, data.draw(DELAYS), {})
    assert_whole(hosts, bucket, namespace)


@pytest.mark.parametrize("namespace", [NAMESPACE, OLD_NAMESPACE])
def test_a_new_entry_is_written_with_its_mark_apart(namespace: str) -> None:
    host = make_host(namespace, 1)
    move = host.contest().next(Picture({}, None), 0.0)
    assert isinstance(move, Write)
    assert move.mark
    assert keys.ready_mark(namespace) not in move.files
    assert {*move.files, keys.ready_mark(namespace)} == set(host.files)


def test_another_hosts_entry_stays() -> None:
    theirs, ours = make_host(NAMESPACE, 1), make_host(NAMESPACE, 2)
    assert ours.contest().next(Bucket(theirs.whole).picture(), 0.0) is PublishResult.ALREADY_THERE


def test_another_tools_entry_stays() -> None:
    theirs, ours = make_host(NAMESPACE, 1), make_host(NAMESPACE, 2)
    assert ours.contest().next(Bucket(theirs.files).picture(), 0.0) is PublishResult.ALREADY_THERE


def test_an_entry_with_our_neff_gains_what_it_lacks() -> None:
    theirs, ours = make_host(NAMESPACE, 1), make_host(NAMESPACE, 1, wrapped=0, compile_s=2.0)
    move = ours.contest().next(Bucket(theirs.whole).picture(), 0.0)
    assert isinstance(move, Write)
    assert (move.files, move.mark, move.delete) == (("wrapped_neff.hlo",), False, ())
    assert move.statement.files == ours.provenance.files
    assert move.statement.compile_s == 1.0


def test_our_own_half_gets_its_mark_at_once() -> None:
    host = make_host(NAMESPACE, 1)
    half = {file: content for file, content in host.whole.items() if file != xla.DONE}
    move = host.contest().next(Bucket(half).picture(), 0.0)
    assert isinstance(move, Write)
    assert (move.files, move.mark) == ((), True)


def test_another_hosts_half_is_replaced_once_it_stays_a_half() -> None:
    theirs, ours = make_host(NAMESPACE, 1, wrapped=0), make_host(NAMESPACE, 2)
    half = Bucket({file: content for file, content in theirs.whole.items() if file != xla.DONE})
    contest = ours.contest()
    wait = contest.next(half.picture(), 0.0)
    assert isinstance(wait, Wait)
    move = contest.next(half.picture(), wait.seconds)
    assert isinstance(move, Write)
    assert move.delete == ("wrapped_neff.hlo",)
    assert move.mark


def test_of_two_who_see_their_mix_one_writes_at_once_and_the_other_waits() -> None:
    hosts = sorted(
        (make_host(NAMESPACE, neff, hlo) for neff, hlo in ((1, 1), (2, 2))),
        key=lambda host: xet_hash(host.files[xla.NEFF]),
    )
    moves = []
    for host, other in (hosts, hosts[::-1]):
        contest = host.contest()
        contest.next(Picture({}, None), 0.0)
        mix = host.whole | {xla.NEFF: other.files[xla.NEFF]}
        moves.append(contest.next(Bucket(mix).picture(), 1.0))
    assert isinstance(moves[0], Write)
    assert isinstance(moves[1], Wait)
