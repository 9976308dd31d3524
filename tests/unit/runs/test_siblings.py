"""What came together: few questions, none that is in vain twice, and never an error."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from neff.keys import ModuleName
from neffd.remotes.base import RemoteUnavailable
from neffd.runs import siblings
from neffd.runs.siblings import Siblings
from neffd.tasks import Tasks
from tests.harness import entries
from tests.unit.clock import Clock

NAMES = [entries.module(number) for number in range(6)]


class Remote:
    """A remote with its catalog: modules by the commit that brought them."""

    name = "hub"

    def __init__(self, commits: Mapping[int, str]) -> None:
        self.commits = {NAMES[number].key: commit for number, commit in commits.items()}
        self.asked: list[Sequence[str]] = []
        self.trouble: str | None = None
        self.failure: RemoteUnavailable | None = None
        self.state = "one"

    @property
    def remote(self) -> Any:
        return self

    @property
    def catalog(self) -> Any:
        return self

    def version(self, namespace: str) -> str:
        return self.state

    def knows(self, namespace: str, key: str) -> bool:
        return key in self.commits

    def keys_of(self, namespace: str) -> frozenset[str]:
        return frozenset(self.commits)

    async def published_with(self, namespace: str, wanted: Sequence[str]) -> Mapping[str, str]:
        self.asked.append(wanted)
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        return {key: self.commits[key] for key in wanted if key in self.commits}


@pytest.fixture
def remote() -> Remote:
    return Remote({0: "a", 1: "a", 2: "a", 3: "b", 4: "c"})


def numbers(found: list[ModuleName]) -> list[int]:
    return [NAMES.index(name) for name in found]


async def test_the_others_of_a_commit_are_found_with_one_question_and_only_what_is_new_is_asked(remote: Remote) -> None:
    known = Siblings(Clock())
    found = await asyncio.gather(*(known.of(remote, NAMES[number]) for number in (0, 1, 3, 5)))
    assert [sorted(numbers(each)) for each in found] == [[1, 2], [0, 2], [], []]
    assert await known.of(remote, NAMES[5]) == []
    assert remote.asked == [sorted(remote.commits)]
    remote.state = "two"
    remote.commits[NAMES[5].key] = "b"
    del remote.commits[NAMES[1].key]
    assert numbers(await known.of(remote, NAMES[5])) == [3]
    assert numbers(await known.of(remote, NAMES[0])) == [2], "what is no longer there is forgotten"
    assert remote.asked[1:] == [[NAMES[5].key]]


@pytest.mark.parametrize(("asked_s", "pause_s"), [(None, 60), (300, 300)])
async def test_a_remote_in_trouble_is_left_alone(remote: Remote, asked_s: float | None, pause_s: float) -> None:
    clock = Clock()
    known = Siblings(clock)
    remote.failure = RemoteUnavailable("rate-limited", retry_after_s=asked_s)
    for number in range(4):
        assert await known.of(remote, NAMES[number]) == []
    clock.pass_s(pause_s - 1)
    assert await known.of(remote, NAMES[0]) == []
    assert len(remote.asked) == 1
    clock.pass_s(1)
    remote.failure, remote.trouble = None, "away"
    assert await known.of(remote, NAMES[0]) == []
    assert len(remote.asked) == 1
    remote.trouble = None
    assert numbers(await known.of(remote, NAMES[0])) == [1, 2]


async def test_one_remote_does_not_wait_for_another(remote: Remote) -> None:
    known = Siblings(Clock())
    silent = Remote({0: "a"})
    silent.name = "silent"
    held = asyncio.Event()
    silent.published_with = lambda *_: held.wait()  # type: ignore[method-assign, assignment]
    tasks = Tasks()
    tasks.start(known.of(silent, NAMES[0]), name="silent")
    await asyncio.sleep(0)
    assert numbers(await asyncio.wait_for(known.of(remote, NAMES[0]), 5)) == [1, 2]
    assert await tasks.stop(5) == []


async def test_a_commit_of_a_whole_repo_was_no_runs_work(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(siblings, "MAX_GROUP", 2)
    assert await Siblings(Clock()).of(remote, NAMES[0]) == []


async def test_of_a_large_repo_what_is_near_is_asked_for_a_few_times(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(siblings, "MAX_KEYS", 2)
    monkeypatch.setattr(siblings, "MAX_QUESTIONS", 2)
    known = Siblings(Clock())
    for _ in range(3):
        for name in NAMES[:5]:
            await known.of(remote, name)
    assert [len(asked) for asked in remote.asked] == [2, 1], "what is known is kept"
    remote.state = "two"
    await known.of(remote, NAMES[4])
    assert len(remote.asked) == 3


async def test_what_nobody_can_tell_is_asked_once_for_each_state(remote: Remote) -> None:
    names, known = NAMES[:5], Siblings(Clock())
    remote.commits = dict.fromkeys(remote.commits, "")
    for state in ("one", "two"):
        remote.state = state
        for _ in range(3):
            assert [await known.of(remote, name) for name in names] == [[]] * 5
    assert len(remote.asked) == 2
