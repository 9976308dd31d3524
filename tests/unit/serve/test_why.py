"""`why` and what a session tells of its answers, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from neff.keys import LockId, ModuleName
from neff.protocol import Message
from neffd.fetch.flight import Answer, Flight
from neffd.limits import MAX_STORIES, STORIES, Limits
from neffd.metrics import Metrics
from neffd.serve.operations.resolve import resolve
from neffd.serve.operations.why import Why
from neffd.serve.session import Operation, Resolver, Session
from neffd.tasks import Tasks
from tests.harness import entries
from tests.unit.clock import Clock
from tests.unit.serve.test_session import Client

NAME = entries.module(1)


class Host:
    """Knows one story, and answers in flight or at once."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.limits = Limits(self.metrics, Clock())
        self.tasks = Tasks()
        self.answers: dict[str, Answer] = {}
        self.flights: list[Flight] = []
        self.told: list[tuple[Session, ModuleName, Answer]] = []
        self.fails = False
        self.more: dict[str, Any] = {}
        self.is_slow: asyncio.Event | None = None

    def find_root(self, hello: Message) -> tuple[Resolver | None, str | None, str | None]:
        return self, "/cache", None

    def resolve(self, name: ModuleName, *, urgent: bool = True, holding: LockId | None = None) -> Answer | Flight:
        if name.key in self.answers:
            return self.answers[name.key]
        self.flights.append(Flight(name, 0.0, asyncio.get_running_loop().create_future()))
        return self.flights[-1]

    def tell(self, session: Session, name: ModuleName, answer: Answer) -> Answer:
        self.told.append((session, name, answer))
        return answer if answer.ready else dataclasses.replace(answer, reason="failed-before", text="how")

    async def why(self, text: str) -> Message:
        if self.is_slow is not None:
            await self.is_slow.wait()
        if self.fails:
            raise sqlite3.OperationalError("disk I/O error")
        return {"name": text, "known": True, **self.more}


@contextlib.asynccontextmanager
async def connected(host: Host, path: Path, hello: dict[str, Any]) -> AsyncIterator[Client]:
    operations: dict[str, Operation] = {"resolve": resolve, "why": Why(host, host.limits)}
    server = await asyncio.get_running_loop().create_unix_server(
        lambda: Session(host, operations, host.tell), str(path)
    )
    reader, writer = await asyncio.open_unix_connection(str(path), limit=2**20)
    try:
        client = Client(reader, writer)
        await client.ask({"hello": {"protocol": 1, **hello}})
        yield client
    finally:
        writer.close()
        server.close()
        await host.tasks.stop(5)


async def test_a_story_is_told(tmp_path: Path) -> None:
    host = Host()
    async with connected(host, tmp_path / "sock", {}) as client:
        assert await client.ask({"id": 1, "op": "why", "name": "MODULE_1"}) == [
            {"id": 1, "why": {"name": "MODULE_1", "known": True}, "done": True}
        ]
        host.fails = True
        (answer,) = await client.ask({"id": 2, "op": "why", "name": "MODULE_1"})
        assert answer["error"]["code"] == "unavailable"


async def test_one_user_has_so_many_stories_told_at_a_time(tmp_path: Path) -> None:
    host = Host()
    host.limits = Limits(host.metrics, Clock(), apart=())
    host.is_slow = asyncio.Event()
    async with connected(host, tmp_path / "sock", {}) as client:
        client.send(*({"id": number, "op": "why", "name": "MODULE_1"} for number in range(MAX_STORIES + 1)))
        answer = await client.receive()
        assert (answer["id"], answer["error"]["code"]) == (MAX_STORIES, "too-many")
        host.is_slow.set()
        assert all([(await client.receive())["done"] for _ in range(MAX_STORIES)])
        assert (await client.ask({"id": 99, "op": "why", "name": "MODULE_1"}))[-1]["done"]
    assert [row["reason"] for row in host.limits.status()] == [STORIES]


async def test_of_a_story_that_is_too_long_the_newest_events_are_told(tmp_path: Path) -> None:
    host = Host()
    host.more = {"events": [{"number": number, "text": "\u2028" * 2_000} for number in range(50)]}
    async with connected(host, tmp_path / "sock", {}) as client:
        (answer,) = await client.ask({"id": 1, "op": "why", "name": "MODULE_1"})
    numbers = [event["number"] for event in answer["why"]["events"]]
    assert 1 <= len(numbers) < 50
    assert numbers == list(range(50 - len(numbers), 50))


@pytest.mark.parametrize("name", [None, "", 7, ["MODULE_1"], "x" * 513])
async def test_what_is_no_name_is_a_bad_request(tmp_path: Path, name: Any) -> None:
    async with connected(Host(), tmp_path / "sock", {}) as client:
        (answer,) = await client.ask({"id": 1, "op": "why", "name": name})
        assert answer["error"]["code"] == "bad-request"


async def test_every_final_answer_passes_by_with_its_asker(tmp_path: Path) -> None:
    host = Host()
    flying, absent, ready = (entries.module(number) for number in range(3))
    host.answers = {absent.key: Answer(False, "not-on-remotes"), ready.key: Answer(True, source="team", compile_s=9.5)}
    job = {"RANK": "0", "NASTY": "\x1b[31m", **{f"V{number}": "x" for number in range(50)}}
    async with connected(host, tmp_path / "sock", {"job": job}) as client:
        keys = [flying.key, absent.key, ready.key, "no-key"]
        client.send({"id": 1, "op": "resolve", "namespace": NAME.namespace, "keys": keys})
        answers = [await client.receive() for _ in range(3)]
        host.flights[0].outcome.set_result(Answer(False, "remote-unavailable"))
        answers += [await client.receive() for _ in range(2)]
    by_key = {answer.get("key"): answer for answer in answers}
    assert by_key[ready.key] == {"id": 1, "key": ready.key, "state": "ready", "source": "team", "compile_s": 9.5}
    failed = {"id": 1, "state": "absent", "reason": "failed-before", "text": "how"}
    assert by_key[absent.key] == {**failed, "key": absent.key}
    assert by_key[flying.key] == {**failed, "key": flying.key}
    assert by_key["no-key"]["reason"] == "bad-name"
    assert [(name, answer.reason) for _, name, answer in host.told] == [
        (absent, "not-on-remotes"),
        (ready, ""),
        (flying, "remote-unavailable"),
    ]
    session = host.told[0][0]
    assert session.job["RANK"] == "0"
    assert session.job["NASTY"] == "?[31m"
    assert len(session.job) == 16


@pytest.mark.parametrize("job", [None, [], "x", {"A": 1}, {"A": None}])
async def test_a_job_of_any_form(tmp_path: Path, job: Any) -> None:
    async with connected(Host(), tmp_path / "sock", {"job": job}) as client:
        assert (await client.ask({"id": 1, "op": "why", "name": "MODULE_1"}))[0]["done"]
