"""Whether models are public: asked as a stranger, behind, and seldom."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from neffd.remotes.hub.visibility import ModelVisibility
from neffd.runs import publicity
from neffd.tasks import Tasks
from tests.hub import HubServer
from tests.unit.clock import Clock

OPEN, SECRET, NOWHERE = "alice/open", "alice/secret", "alice/nowhere"
LIMIT_S = 10.0


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[HubServer]:
    async with HubServer(tmp_path / "hub") as hub:
        hub.seed_files(OPEN, {}, private=False)
        hub.seed_files(SECRET, {}, private=True)
        yield hub


@contextlib.asynccontextmanager
async def looking(hub: HubServer, clock: Clock) -> AsyncIterator[ModelVisibility]:
    tasks = Tasks()
    yield ModelVisibility(hub.endpoint, tasks, clock)
    assert await tasks.stop(5.0) == []


def questions(hub: HubServer, model_id: str) -> int:
    return sum(f"GET /api/models/{model_id}" in request for request in hub.hub.counters.recent)


async def test_only_what_a_stranger_sees_is_public(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token("alice"))  # which may see it, and is not to be used
    clock = Clock()
    async with looking(hub, clock) as models:
        assert not models.is_public(OPEN), "nobody knows yet"
        await models.look([OPEN, SECRET, NOWHERE, "no/models/id"], LIMIT_S)
        assert [models.is_public(model) for model in (OPEN, SECRET, NOWHERE, "no/models/id")] == [True, *[False] * 3]
        for _ in range(3):
            await models.look([OPEN, SECRET, NOWHERE], LIMIT_S)
        assert [questions(hub, model) for model in (OPEN, SECRET, NOWHERE)] == [1, 1, 1]
        hub.seed_files(NOWHERE, {}, private=False)
        assert not models.is_public(NOWHERE)
        clock.pass_s(publicity.NOT_PUBLIC_S)
        await models.look([OPEN, NOWHERE], LIMIT_S)
        assert models.is_public(NOWHERE)
        assert [questions(hub, model) for model in (OPEN, NOWHERE)] == [1, 2]


@pytest.mark.parametrize("fault", [{"kind": "status", "status": 503}, {"kind": "status", "status": 429}])
async def test_no_answer_is_no_permission(hub: HubServer, fault: dict[str, object]) -> None:
    clock = Clock()
    hub.add_fault(f"GET /api/models/{OPEN}", times=1, **fault)
    async with looking(hub, clock) as models:
        for _ in range(3):
            await models.look([OPEN], LIMIT_S)
            assert not models.is_public(OPEN)
        assert questions(hub, OPEN) == 1
        clock.pass_s(publicity.NOT_PUBLIC_S)
        await models.look([OPEN], LIMIT_S)
        assert models.is_public(OPEN)


async def test_nobody_waits_longer_than_agreed_for_a_hub_that_is_silent(hub: HubServer) -> None:
    hub.add_fault(f"GET /api/models/{OPEN}", kind="stall", times=None)
    async with looking(hub, Clock()) as models:
        await asyncio.wait_for(models.look([OPEN], 0.05), LIMIT_S)
        assert not models.is_public(OPEN)
        hub.clear_faults()
