"""The stand-in's cache class with our hook on it, and a scripted answerer in place of the daemon."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from neff.asking import Asker
from neff.hook import CACHE_MODULE, Hook
from neff.keys import LockId, ModuleName
from neff.notices import Notices
from tests.neuron.env import importable_stack

MODERN = "neuronxcc-2.20.9961.0+0acef03a"
KEY = "MODULE_123+e30acd3a"


class Answers(Asker):
    """Answers from a function; notes the questions."""

    def __init__(self) -> None:
        super().__init__("/nowhere")
        self.questions: list[tuple[str, ModuleName, bool]] = []
        self.taken: list[ModuleName] = []
        self.released: list[ModuleName] = []
        self.locks: dict[ModuleName, LockId] = {}
        self.waits: list[ModuleName] = []
        self.wait: Callable[[ModuleName], str | None] = lambda name: None
        self.answer: Callable[[ModuleName], bool] = lambda name: False

    def is_ready(self, root: str, name: ModuleName, *, holding: bool) -> bool:
        self.questions.append((root, name, holding))
        return self.answer(name)

    def lock_taken(self, root: str, name: ModuleName, lock: LockId) -> None:
        self.taken.append(name)
        self.locks[name] = lock

    def lock_released(self, root: str, name: ModuleName, lock: LockId) -> None:
        assert self.locks.pop(name) == lock
        self.released.append(name)

    def wait_for_lock(self, root: str, name: ModuleName, *, is_there: Callable[[], bool] = lambda: True) -> str | None:
        self.waits.append(name)
        return self.wait(name)


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.delenv("NEURON_STANDIN_GENERATION", raising=False)
    monkeypatch.delenv("NEURON_STANDIN_COMPILER_VERSION", raising=False)
    with importable_stack():
        yield importlib.import_module(CACHE_MODULE)


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def hook(stack: ModuleType, answers: Answers) -> Iterator[Hook]:
    hook = Hook(answers, Notices())
    hook.patch(stack)
    yield hook
    hook.unpatch()


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    entry = tmp_path / MODERN / KEY
    entry.mkdir(parents=True)
    return entry
