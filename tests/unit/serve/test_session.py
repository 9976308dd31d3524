"""One connection, over a real socket, with a scripted host behind it: whatever comes, it answers or hangs up."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neff import protocol
from neff.keys import LockId, ModuleName
from neff.protocol import Message
from neffd.compiles import lockfile
from neffd.fetch.flight import READY_HERE, Answer, Flight
from neffd.layouts import xla
from neffd.limits import FLUSH_EVERY_S, FLUSHES_IN_A_ROW, GUESS_EVERY_S, GUESSES_IN_A_ROW, MAX_FLUSHES, Limits, Share
from neffd.metrics import Metrics
from neffd.runs.identity import Identity
from neffd.runs.plans import Expected
from neffd.serve import following, session
from neffd.serve.operations import standard
from neffd.serve.session import Resolver, Session
from neffd.tasks import Tasks
from tests.harness import entries
from tests.unit.clock import Clock
from tests.unit.store.as_user import needs_root
from tests.unit.waiting import until

NAME = entries.module(1)
HELLO: Message = {"hello": {"protocol": 1, "root": "/cache"}}


class Host:
    """Answers as the test has set it; keys without an answer are in flight."""

    def __init__(self) -> None:
        self.metrics, self.clock = Metrics(), Clock()
        self.limits = Limits(self.metrics, self.clock)
        self.hurried: list[bool] = []
        self.tasks = Tasks(lambda name, error: self.crashed.append(repr(error)))
        self.crashed: list[str] = []
        self.answers: dict[str, Answer] = {}
        self.unknown: set[str] = set()
        self.flights: dict[str, Flight] = {}
        self.facts: dict[str, Any] = {"schema": 1}
        self.flushed = asyncio.Event()
        self.parked: list[dict[str, str]] = []
        self.sessions: list[Session] = []
        self.guess = Expected()
        self.root = "/cache"
        self.holding: LockId | None = None
        self.asked = 0

    def find_root(self, hello: Message) -> tuple[Resolver | None, str | None, str | None]:
        return (self, self.root, None) if hello.get("root") == "/cache" else (None, None, "other-cache-dir")

    def resolver_for(self, name: ModuleName) -> Resolver | None:
        return self

    def resolve(self, name: ModuleName, *, urgent: bool = True, holding: LockId | None = None) -> Answer | Flight:
        self.holding, self.asked = holding, self.asked + 1
        if name.key in self.answers:
            return self.answers[name.key]
        if name.key not in self.flights:
            self.flights[name.key] = Flight(name, 0.0, asyncio.get_running_loop().create_future())
        return self.flights[name.key]

    async def expected(self, identity: Identity) -> Expected:
        return self.guess

    def is_of(self, session: Session, run_key: str) -> bool:
        return False

    async def listed(self, namespace: str) -> tuple[list[ModuleName], list[str]]:
        return [NAME], []

    async def full_names(self, keys: Collection[str]) -> dict[str, list[ModuleName]]:
        return {key: [ModuleName(entries.NAMESPACE, key)] for key in keys if key not in self.unknown}

    def status(self) -> dict[str, Any]:
        return self.facts

    async def flush(
        self, timeout_s: float, progress: Callable[[int], None], *, hurry: bool
    ) -> tuple[int, list[dict[str, str]]]:
        self.hurried.append(hurry)
        progress(1)
        await self.flushed.wait()
        return 0, self.parked


class Client:
    """The other end, line by line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *messages: Message) -> None:
        self.writer.write(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    async def receive(self) -> Message:
        line = await asyncio.wait_for(self.reader.readline(), 10)
        assert line, "the connection ended"
        message: Message = json.loads(line)
        return message

    async def receive_but(self, *states: str) -> Message:
        """The next line that tells of none of these: how things come along is told by the clock."""
        while (message := await self.receive()).get("state") in states:
            pass
        return message

    async def ask(self, message: Message) -> list[Message]:
        self.send(message)
        answers = [await self.receive()]
        while not (answers[-1].get("done") or "error" in answers[-1] or "hello" in answers[-1]):
            answers.append(await self.receive())
        return answers

    async def is_hung_up(self) -> bool:
        return await asyncio.wait_for(self.reader.read(), 10) == b""


class Served:
    """A host behind a listening socket."""

    def __init__(self, host: Host, path: Path) -> None:
        self.host, self.path = host, path

    @contextlib.asynccontextmanager
    async def client(self, *, greet: bool = True) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_unix_connection(str(self.path), limit=2**20)
        client = Client(reader, writer)
        try:
            if greet:
                await client.ask(HELLO)
            yield client
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Served]:
    host = Host()

    def connected() -> Session:
        host.sessions.append(Session(host, standard(host)))
        return host.sessions[-1]

    server = await asyncio.get_running_loop().create_unix_server(connected, str(path))
    try:
        yield Served(host, path)
        assert host.crashed == []
    finally:
        server.close()
        await host.tasks.stop(5)
        await until(lambda: not host.metrics.value("neffd_connections"), "all connections have ended")


@pytest.fixture
async def served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Served]:
    async with serving(tmp_path / "sock") as served:
        yield served
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def resolve(*keys: str, number: int = 1, **fields: Any) -> Message:
    return {"id": number, "op": "resolve", "namespace": entries.NAMESPACE, "keys": list(keys), **fields}


def keys(count: int) -> list[str]:
    return [entries.module(number).key for number in range(count)]


async def test_greeting_as_documented(served: Served) -> None:
    async with served.client(greet=False) as client:
        (answer,) = await client.ask(HELLO)
        assert answer["hello"].pop("server").startswith("neffd ")
        assert answer == {
            "hello": {
                "protocol": 1,
                "capabilities": ["resolve", "prefetch", "status", "flush"],
                "alive_s": 1.0,
                "root": "/cache",
                "reason": None,
            }
        }
        assert served.host.sessions[0].uid == os.getuid()


@pytest.mark.parametrize("is_itself", [True, False])
async def test_who_greets_through_a_proxy_is_not_taken_for_it(served: Served, is_itself: bool) -> None:
    """The end of a proxy, or of its connection, proves nothing of a trainer behind it."""
    async with served.client(greet=False) as client:
        await client.ask({"hello": {**HELLO["hello"], "pid": os.getpid() if is_itself else os.getppid()}})
        assert served.host.sessions[0].pid == (os.getpid() if is_itself else 0)
        await client.ask(HELLO)
        assert served.host.sessions[0].pid == os.getpid(), "who does not say"


async def test_resolve_as_documented(served: Served) -> None:
    ready, absent, flying, bad = *keys(3), "../../etc/passwd"
    served.host.answers = {ready: READY_HERE, absent: Answer(False, "not-on-remotes")}
    async with served.client() as client:
        client.send(resolve(ready, absent, flying, bad, number=7))
        assert [await client.receive() for _ in range(3)] == [
            {"id": 7, "key": ready, "state": "ready", "source": "local"},
            {"id": 7, "key": absent, "state": "absent", "reason": "not-on-remotes"},
            {"id": 7, "key": bad, "state": "absent", "reason": "bad-name"},
        ]
        flight = served.host.flights[flying]
        flight.found, flight.own_bytes, flight.total_bytes, flight.give_up_s = True, 10, 40, 60
        assert await client.receive_but("asking") == {
            "id": 7,
            "key": flying,
            "state": "fetching",
            "done_bytes": 10,
            "total_bytes": 40,
            "give_up_s": 60,
        }
        flight.outcome.set_result(Answer(True, source="shared"))
        told = await client.receive_but("fetching")
        assert told == {"id": 7, "key": flying, "state": "ready", "source": "shared"}
        assert await client.receive() == {"id": 7, "done": True}


async def test_prefetch_status_and_flush_as_documented(served: Served) -> None:
    served.host.answers = {NAME.key: READY_HERE}
    served.host.parked = [{"name": str(NAME), "remote": "shared", "reason": "namespace-full"}]
    async with served.client() as client:
        flying = entries.module(2)
        assert await client.ask({"id": 2, "op": "prefetch", "names": [str(NAME), NAME.key, "no-name"]}) == [
            {"id": 2, "name": str(NAME), "state": "ready", "source": "local"},
            {"id": 2, "name": NAME.key, "state": "ready", "source": "local"},
            {"id": 2, "name": "no-name", "state": "absent", "reason": "bad-name"},
            {"id": 2, "done": True},
        ]
        served.host.unknown = {flying.key}
        assert await client.ask({"id": 2, "op": "prefetch", "names": [flying.key]}) == [
            {"id": 2, "name": flying.key, "state": "absent", "reason": "remote-unavailable"},
            {"id": 2, "done": True},
        ]
        answers = await client.ask({"id": 2, "op": "prefetch", "names": [str(flying)], "wait": False})
        assert [answer.get("state") for answer in answers] == ["fetching", None]
        assert await client.ask({"id": 3, "op": "status"}) == [{"id": 3, "status": {"schema": 1}, "done": True}]
        client.send({"id": 4, "op": "flush", "timeout_s": 60})
        assert await client.receive() == {"id": 4, "pending": 1}
        served.host.flushed.set()
        assert await client.receive() == {"id": 4, "pending": 0, "parked": served.host.parked, "done": True}


async def test_more_that_is_parked_than_a_line_holds_is_counted(served: Served) -> None:
    served.host.parked = [{"name": str(entries.module(n)), "remote": "r", "reason": "public-repo"} for n in range(2000)]
    served.host.flushed.set()
    async with served.client() as client:
        last = (await client.ask({"id": 4, "op": "flush", "timeout_s": 60}))[-1]
    assert (last["parked"], last["parked_count"]) == (served.host.parked[:300], 2000)


async def test_without_a_directory_of_ours_the_reason_is_the_answer(served: Served) -> None:
    async with served.client(greet=False) as client:
        (answer,) = await client.ask({"hello": {"protocol": 1, "root": "/other"}})
        assert (answer["hello"]["root"], answer["hello"]["reason"]) == (None, "other-cache-dir")
        assert (await client.ask(resolve(NAME.key)))[0]["reason"] == "other-cache-dir"
        await client.ask(HELLO)  # a second greeting replaces the first
        served.host.answers = {NAME.key: READY_HERE}
        assert (await client.ask(resolve(NAME.key)))[0]["state"] == "ready"


@pytest.mark.parametrize("version", [0, -1, None, "1", [], 1.5, {}])
async def test_a_protocol_that_is_none_is_refused(served: Served, version: Any) -> None:
    async with served.client(greet=False) as client:
        (answer,) = await client.ask({"hello": {"protocol": version}})
        assert answer["error"]["code"] == "unsupported-protocol"


async def test_a_newer_client_is_told_what_we_speak(served: Served) -> None:
    async with served.client(greet=False) as client:
        (answer,) = await client.ask({"hello": {"protocol": 99, "root": "/cache", "new": ["field"]}})
        assert answer["hello"]["protocol"] == 1


async def test_a_question_before_the_greeting_ends_the_connection(served: Served) -> None:
    async with served.client(greet=False) as client:
        assert (await client.ask(resolve(NAME.key)))[0]["error"]["code"] == "bad-request"
        assert await client.is_hung_up()


@pytest.mark.parametrize(
    "line",
    [
        b"garbage\n",
        b"\n",
        b"\xff\xfe\x00\n",
        b"[]\n",
        b"null\n",
        b'"text"\n',
        b"{\n",
        b"[" * 100_000 + b"\n",
        b'{"id":' * 40_000 + b"\n",
        b"x" * (protocol.MAX_LINE_BYTES + 1),
        b'{"id": 1, "op": "' + b"x" * protocol.MAX_LINE_BYTES + b'"}\n',
        b'{"id": ' + b"9" * 5000 + b"}\n",
    ],
    ids=lambda line: repr(line[:12]),
)
async def test_what_is_no_message_ends_the_connection_after_an_error(served: Served, line: bytes) -> None:
    async with served.client() as client:
        client.writer.write(line)
        answer = await client.receive()
        assert answer["id"] is None
        assert answer["error"]["code"] == "bad-request"
        assert answer["error"]["message"].isprintable()
        assert len(answer["error"]["message"]) <= 200
        assert await client.is_hung_up()


@pytest.mark.parametrize("depth", range(900, 1000, 7))
async def test_nesting_at_the_edge_of_what_can_be_read(served: Served, depth: int) -> None:
    async with served.client() as client:
        client.writer.write(b'{"id": 1, "op": ' + b"[" * depth + b"]" * depth + b"}\n")
        assert (await client.receive())["error"]["code"] in ("unknown-op", "bad-request")


async def test_a_line_in_pieces_and_many_in_one_piece(served: Served) -> None:
    async with served.client() as client:
        for byte in json.dumps({"id": 1, "op": "status"}).encode() + b"\n":
            client.writer.write(bytes([byte]))
            await client.writer.drain()
        assert (await client.receive())["id"] == 1
        client.send(*({"id": number, "op": "status"} for number in range(200)))
        assert [(await client.receive())["id"] for _ in range(200)] == list(range(200))


@pytest.mark.parametrize(
    "message",
    [
        {"op": "status"},
        {"id": "1", "op": "status"},
        {"id": True, "op": "status"},
        {"id": 1.0, "op": "status"},
        {"id": 1, "op": "resolve", "keys": "MODULE"},
        {"id": 1, "op": "resolve", "keys": [1]},
        {"id": 1, "op": "resolve", "keys": [], "holding": {}},
        {"id": 1, "op": "resolve", "keys": ["é" * 40_000]},
        {"id": 1, "op": "prefetch", "names": None},
        {"id": 1, "op": "prefetch", "names": [None]},
        {"id": 1, "op": "prefetch", "names": ["x" * 250_000]},
        {"id": 1, "op": "flush", "timeout_s": float("nan")},
        {"id": 1, "op": "flush", "timeout_s": -1},
        {"id": 1, "op": "flush", "timeout_s": "1"},
        {"id": 1, "op": "flush", "timeout_s": None},
    ],
    ids=lambda message: str(message)[:40],
)
async def test_a_bad_request_is_answered_and_the_connection_goes_on(served: Served, message: Message) -> None:
    async with served.client() as client:
        (answer,) = await client.ask(message)
        assert answer["error"]["code"] == "bad-request"
        assert (await client.ask({"id": 9, "op": "status"}))[0]["done"]


@pytest.mark.parametrize("operation", ["stop", "", None, 1, [], {"a": 1}, "new\nline\x1b[31m", "x" * 1000])
async def test_an_unknown_operation(served: Served, operation: Any) -> None:
    async with served.client() as client:
        (answer,) = await client.ask({"id": 1, "op": operation})
        assert answer["error"]["code"] == "unknown-op"
        assert answer["error"]["message"].isprintable()
        assert len(answer["error"]["message"]) <= 200


async def test_a_thousand_keys_in_one_question_and_not_one_more(served: Served) -> None:
    async with served.client() as client:
        assert (await client.ask(resolve(*keys(1001))))[0]["error"]["code"] == "too-many"
        began_s = asyncio.get_running_loop().time()
        client.send(resolve(*keys(1000)))
        await until(lambda: len(served.host.flights) == 1000, "the question")
        answers: list[Message] = []
        for flight in served.host.flights.values():
            flight.found = True
        for flight in served.host.flights.values():
            flight.outcome.set_result(Answer(True, source="shared"))
            await asyncio.sleep(0)  # one after the other, as fetches end
        while not answers or not answers[-1].get("done"):
            answers.append(await client.receive())
        finals = [answer["key"] for answer in answers if answer.get("state") == "ready"]
        assert sorted(finals) == sorted(keys(1000))
        reports = 1 + (asyncio.get_running_loop().time() - began_s) / following._PROGRESS_EVERY_S
        assert len(answers) <= 1_001 + 1_000 * reports, "progress comes by the clock, not with each entry"


async def test_the_same_key_twice_is_one_flight(served: Served) -> None:
    async with served.client() as client:
        client.send(resolve(NAME.key, NAME.key))
        await until(lambda: served.host.flights, "the question")
        served.host.flights[NAME.key].outcome.set_result(READY_HERE)
        assert (await client.receive_but("asking"))["state"] == "ready"
        assert (await client.receive()) == {"id": 1, "done": True}


async def test_at_most_64_open_requests(served: Served) -> None:
    async with served.client() as client:
        client.send(*(resolve(NAME.key, number=number) for number in range(64)))
        client.send(resolve(NAME.key, number=64))
        assert await client.receive_but("asking") == {
            "id": 64,
            "error": {"code": "too-many", "message": "more than 64 open requests"},
        }
        served.host.flights[NAME.key].outcome.set_result(READY_HERE)
        done = [message["id"] for _ in range(128) if (message := await client.receive_but("asking")).get("done")]
        assert sorted(done) == list(range(64))
        served.host.answers = {NAME.key: READY_HERE}
        assert (await client.ask(resolve(NAME.key, number=65)))[0]["state"] == "ready"


async def test_leaving_withdraws_the_question_and_the_lock_but_not_the_fetch(served: Served, tmp_path: Path) -> None:
    served.host.root = str(tmp_path / "cache")
    lock = entries.write(tmp_path / "cache", NAME, {xla.LOCK: b""}) / xla.LOCK
    async with served.client() as client:
        client.send(resolve(NAME.key, holding=[NAME.key]))
        await until(lambda: any(flight.holders for flight in served.host.flights.values()), "the question")
        assert list(served.host.flights[NAME.key].holders.values()) == [lockfile.identity(lock)]
    flight = served.host.flights[NAME.key]
    await until(lambda: not flight.holders and not len(served.host.tasks), "the end of the connection is seen")
    assert not flight.outcome.done()
    flight.outcome.set_result(READY_HERE)


async def test_a_trainer_is_told_to_compile_where_the_fetch_would_take_longer(served: Served, tmp_path: Path) -> None:
    """The fetch goes on, under no lock of a trainer any more; who is not a trainer waits for it."""
    served.host.root = str(tmp_path / "cache")
    entries.write(tmp_path / "cache", NAME, {xla.LOCK: b""})
    async with served.client() as client, served.client() as person:
        client.send(resolve(NAME.key, *keys(3)[2:], holding=[NAME.key], number=7))
        await until(lambda: len(served.host.flights) == 2, "the question")
        slow, other = served.host.flights.values()
        slow.found, slow.give_up_s, slow.left_s = True, 60.0, 60.0
        other.found, other.give_up_s, other.left_s = True, 60.0, 20.0
        person.send({"id": 1, "op": "prefetch", "names": [str(NAME)], "wait": True})
        told = [await client.receive()]
        while told[-1]["state"] != "absent":
            told.append(await client.receive())
        assert told[-1] == {"id": 7, "key": NAME.key, "state": "absent", "reason": "slower-than-compiling"}
        assert not slow.holders
        assert not slow.outcome.done()
        assert served.host.metrics.value("neffd_questions_total", state="absent", reason="slower-than-compiling") == 1
        slow.outcome.set_result(Answer(True, source="shared"))
        while (answer := await person.receive())["state"] == "fetching":
            pass
        assert answer["state"] == "ready"
        other.outcome.set_result(Answer(True, source="shared"))
        while "done" not in (answer := await client.receive()):
            assert answer["key"] == other.name.key


@needs_root
async def test_nobody_holds_the_lock_of_somebody_else(served: Served, tmp_path: Path) -> None:
    """What a client says it has made has to be its user's; root may act for everybody."""
    served.host.root = str(tmp_path / "cache")
    lock = entries.write(tmp_path / "cache", NAME, {xla.LOCK: b""}) / xla.LOCK
    os.chown(lock, 61_001, 61_001)
    believed = {61_001: True, 61_002: False, 0: True}
    async with served.client() as client:
        (session,) = served.host.sessions
        for number, (uid, is_believed) in enumerate(believed.items()):
            session.uid = uid
            client.send(resolve(entries.module(1).key, holding=[NAME.key], number=number))
            await until(lambda number=number: served.host.asked == number + 1, "the question")  # type: ignore[misc]
            assert (served.host.holding is not None) is is_believed, uid
        lock.unlink()
        client.send(resolve(NAME.key, holding=[NAME.key], number=3))
        await until(lambda: served.host.asked == 4, "the question")
        assert served.host.holding is None, "there is none"
    served.host.flights[NAME.key].outcome.set_result(READY_HERE)


async def test_a_user_with_too_many_connections_is_turned_away(served: Served) -> None:
    served.host.limits = Limits(served.host.metrics, served.host.clock, apart=())
    served.host.limits.connections = Share(4)
    async with served.client() as first, served.client(greet=False) as second, served.client(greet=False) as third:
        with contextlib.suppress(ConnectionError):
            assert await third.is_hung_up()
        assert (await first.ask({"id": 1, "op": "status"}))[0]["done"]
        await second.ask(HELLO)
        (met,) = served.host.limits.status()
        assert (met["uid"], met["reason"], met["times"]) == (os.getuid(), "too-many-connections", 1)
    await until(lambda: served.host.limits.connections.has_room(os.getuid()), "the ends are seen")
    async with served.client() as again:
        assert (await again.ask({"id": 1, "op": "status"}))[0]["done"]


async def test_what_one_user_asks_beyond_its_limits_is_refused(served: Served) -> None:
    limits = served.host.limits = Limits(served.host.metrics, served.host.clock, apart=())
    everything = {"op": "prefetch", "compiler": entries.NAMESPACE}
    async with served.client() as client:
        client.send({"id": 1, **everything, "wait": True})
        await until(lambda: served.host.flights, "it is fetched")
        assert (await client.ask({"id": 2, **everything}))[-1]["error"]["code"] == "too-many"
        assert (await client.ask({"id": 3, "op": "prefetch", "names": [str(NAME)]}))[-1]["done"], (
            "what is named goes on"
        )
        served.host.flights[NAME.key].outcome.set_result(READY_HERE)
        await until(lambda: limits.compilers.has_room(os.getuid()), "it is there")
        served.host.answers = {NAME.key: READY_HERE}
        while (await client.receive())["id"] != 1:
            pass
        assert (await client.ask({"id": 4, **everything}))[-1].get("error") is None
        await until(lambda: limits.compilers.has_room(os.getuid()), "brought behind")
    assert {row["reason"]: row["times"] for row in limits.status()} == {"too-many-prefetches": 1}


async def test_who_has_bare_keys_looked_for_again_and_again_is_refused(served: Served) -> None:
    """Each such look asks every remote anew."""
    limits = served.host.limits = Limits(served.host.metrics, served.host.clock, apart=())
    served.host.answers = {NAME.key: READY_HERE}
    async with served.client() as client:
        for number in range(GUESSES_IN_A_ROW):
            assert (await client.ask({"id": number, "op": "prefetch", "names": [NAME.key]}))[-1].get("done")
        (answer,) = await client.ask({"id": 200, "op": "prefetch", "names": [NAME.key]})
        assert answer["error"]["code"] == "too-many"
        assert (await client.ask({"id": 201, "op": "prefetch", "names": [str(NAME)]}))[-1].get("done")
        served.host.clock.pass_s(GUESS_EVERY_S)
        assert (await client.ask({"id": 202, "op": "prefetch", "names": [NAME.key]}))[-1].get("done")
    assert {row["reason"]: row["times"] for row in limits.status()} == {"too-many-guesses": 1}


async def test_who_flushes_again_and_again_waits_like_everybody(served: Served) -> None:
    limits = served.host.limits = Limits(served.host.metrics, served.host.clock, apart=())
    async with served.client() as client:
        client.send(*({"id": number, "op": "flush"} for number in range(MAX_FLUSHES + 1)))
        while "error" not in (answer := await client.receive()):
            pass
        assert (answer["id"], answer["error"]["code"]) == (MAX_FLUSHES, "too-many")
        served.host.flushed.set()
        done = 0
        while done < MAX_FLUSHES:
            done += bool((await client.receive()).get("done"))
        assert (await client.ask({"id": 99, "op": "flush"}))[-1]["done"]
        served.host.clock.pass_s(FLUSH_EVERY_S)
        assert (await client.ask({"id": 100, "op": "flush"}))[-1]["done"]
    assert served.host.hurried == [True] * FLUSHES_IN_A_ROW + [False, True]
    assert {row["reason"]: row["times"] for row in limits.status()} == {"too-many-flushes": 2}


async def test_a_client_that_does_not_read_is_let_go(served: Served) -> None:
    served.host.facts = {"much": "x" * 200_000}
    async with served.client() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        with contextlib.suppress(ConnectionError):
            for number in range(200):
                client.send({"id": number, "op": "status"})
                await client.writer.drain()
        await until(lambda: not served.host.metrics.value("neffd_connections"), "the client is let go")


async def test_thousands_of_requests_in_one_go_keep_nobody_waiting(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, asked = 1_000, 0
    monkeypatch.setattr(session, "_TURN_S", 0.0)

    def status() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return {"much": "x" * 100}

    monkeypatch.setattr(served.host, "status", status)
    async with served.client() as many, served.client(greet=False) as one:
        many.send(*({"id": number, "op": "status"} for number in range(count)))
        await one.ask(HELLO)
        assert asked < count
        assert [(await many.receive())["id"] for _ in range(count)] == list(range(count))
        assert (await many.ask({"id": count, "op": "status"}))[-1]["done"], "what comes later is read"


async def test_what_was_said_in_one_go_is_heard_where_its_client_is_gone(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_TURN_S", 0.0)
    async with served.client(greet=False) as client:
        client.send(HELLO, *(resolve(key, number=number) for number, key in enumerate(keys(50))))
    await until(lambda: served.host.asked == 50, "all of it is heard")


async def test_a_defect_that_ends_a_connection_ends_it_also_later(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_TURN_S", 0.0)
    seen: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(repr(context["exception"])))
    monkeypatch.setattr(served.host, "status", lambda: 1 / 0)
    async with served.client() as client:
        client.send(resolve(*keys(1)), resolve(*keys(1), number=2), {"id": 3, "op": "status"})
        assert await client.is_hung_up()
    assert ["ZeroDivisionError" in error for error in seen] == [True]


async def test_an_operation_that_fails_ends_its_question(served: Served) -> None:
    host = served.host

    async def fail(*_: object, **__: object) -> tuple[int, list[dict[str, str]]]:
        raise OSError(errno.ESTALE, "Stale file handle")

    host.flush = fail  # type: ignore[method-assign]
    async with served.client() as client:
        assert (await client.ask({"id": 1, "op": "flush"}))[-1]["error"]["code"] == "internal-error"
        assert (await client.ask({"id": 2, "op": "status"}))[-1]["done"], "the connection goes on"
    assert ["Stale file handle" in crash for crash in host.crashed] == [True], "and it is seen"
    host.crashed.clear()


async def test_an_answer_that_does_not_fit_is_an_error(served: Served) -> None:
    served.host.facts = {"much": "x" * 300_000}
    served.host.parked = [{"name": str(NAME), "remote": "r" * 64, "reason": "namespace-full"}] * 10_000
    served.host.flushed.set()
    async with served.client() as client:
        assert (await client.ask({"id": 1, "op": "status"}))[0]["error"]["code"] == "too-many"
        answer = (await client.ask({"id": 2, "op": "flush"}))[-1]
        assert answer["done"]
        assert answer["parked"]


async def test_a_status_where_all_goes_wrong_at_once_is_shown_with_fewer_rows(served: Served) -> None:
    problems = [{"reason": "stale-lock", "detail": f"{number} " + "x" * 800, "hint": "rm"} for number in range(50)]
    parked = [{"name": f"{number} {NAME}", "reason": "namespace-full"} for number in range(100)]
    journal = {"parked_count": 5_000, "parked": parked}
    served.host.facts = {
        "cache_dirs": [{"path": f"/cache/{number}", "problems": problems} for number in range(4)],
        "remotes": [{"name": f"r{number}", "journal": journal} for number in range(16)],
    }
    async with served.client() as client:
        (answer,) = await client.ask({"id": 1, "op": "status"})
    status = answer["status"]
    assert [(row["path"], row["problems"]) for row in status["cache_dirs"]] == [
        (f"/cache/{number}", problems[:20]) for number in range(4)
    ]
    assert [(row["name"], row["journal"]) for row in status["remotes"]] == [
        (f"r{number}", {"parked_count": 5_000, "parked": parked[:20]}) for number in range(16)
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(NAME.key),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.integers() | JSON,
        "op": st.sampled_from(["resolve", "prefetch", "status", "flush"]) | JSON,
        "keys": st.lists(st.text(max_size=20) | st.just(NAME.key), max_size=3) | JSON,
        "names": st.lists(st.text(max_size=20) | st.just(str(NAME)), max_size=3) | JSON,
        "namespace": st.just(entries.NAMESPACE) | JSON,
        "holding": st.lists(st.just(NAME.key), max_size=2) | JSON,
        "timeout_s": st.floats() | JSON,
        "wait": JSON,
        "hello": st.fixed_dictionaries({"protocol": st.integers() | JSON, "root": JSON}) | JSON,
    },
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(messages=st.lists(FIELDS, min_size=1, max_size=8))
def test_any_messages_are_answered_or_end_the_connection(
    messages: list[Message], tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()

    async def talk(path: Path) -> None:
        async with serving(path) as served:
            served.host.answers = {NAME.key: READY_HERE}
            served.host.flushed.set()
            async with served.client() as client:
                client.send(*messages, {"id": 424242, "op": "status"})
                line = b"first"
                while line and b"424242" not in line:
                    line = await asyncio.wait_for(client.reader.readline(), 10)
                    if line:
                        assert json.loads(line).keys() & {"id", "hello"}

    asyncio.run(talk(tmp_path_factory.mktemp("talk") / "sock"))
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
