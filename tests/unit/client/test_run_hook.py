"""What the hook notes of the graphs it meets, on the stand-in's cache class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neff.hook import Hook
from neff.keys import ModuleName
from neff.launch import counts
from neff.notices import Notices
from neff.protocol import READY
from neff.tally import Tally
from tests.unit.client.hooked import KEY, MODERN, Answers

NAME = ModuleName(MODERN, KEY)
FLAGS = ["--target=trn1"]


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


@pytest.fixture
def cache(stack: Any, answers: Answers, notes: Path, tmp_path: Path) -> Iterator[Any]:
    hook = Hook(answers, Notices(), Tally(str(notes)))
    hook.patch(stack)
    yield stack.CompileCacheFs(stack.CacheUrl(str(tmp_path / "cache"), url_type="fs"))
    hook.unpatch()


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    entry = tmp_path / "cache" / MODERN / KEY
    entry.mkdir(parents=True)
    return entry


def numbers(notes: Path) -> dict[str, float]:
    """The numbers that are not 0."""
    return {name: value for name, value in counts.read(str(notes)).as_dict().items() if value}


def test_a_local_graph(cache: Any, entry: Path, notes: Path) -> None:
    (entry / "model.done").touch()
    (entry / "model.neff").touch()
    for _ in range(2):
        assert cache.exists(f"{entry}/model.done")
        assert cache.exists(f"{entry}/model.neff")
    assert numbers(notes) == {"graphs": 1, "local": 1}


def test_a_graph_that_came_from_a_remote(cache: Any, entry: Path, notes: Path, answers: Answers) -> None:
    def fetch(name: ModuleName) -> bool:
        (entry / "model.done").touch()
        answers.arrivals[name] = {"state": "ready", "source": "team", "compile_s": 90}
        return True

    answers.answer = fetch
    assert cache.exists(f"{entry}/model.done")
    assert cache.exists(f"{entry}/model.done")
    assert numbers(notes) == {"graphs": 1, "fetched": 1, "saved_s": 90}


def test_a_graph_that_was_brought_by_somebody_else_meanwhile(
    cache: Any, entry: Path, notes: Path, answers: Answers
) -> None:
    def find(name: ModuleName) -> bool:
        (entry / "model.done").touch()
        return True

    answers.answer = find
    assert cache.exists(f"{entry}/model.done")
    assert numbers(notes) == {"graphs": 1, "local": 1}


def test_a_miss_counts_when_it_is_compiled(cache: Any, entry: Path, notes: Path) -> None:
    hlo = f"{entry}/model.hlo_module.pb"
    assert not cache.exists(f"{entry}/model.done")
    assert cache.hlo_acquire_lock(hlo)
    cache.hlo_release_lock(hlo)  # the compile failed
    assert numbers(notes) == {}
    assert cache.hlo_acquire_lock(hlo)
    assert not cache.exists(f"{entry}/model.done")
    (entry / "model.done").touch()
    cache.hlo_release_lock(hlo)
    assert cache.exists(f"{entry}/model.done")
    seen = numbers(notes)
    seen.pop("compiled_s", None)
    assert seen == {"graphs": 1, "compiled": 1}


def test_a_wait_for_another_process(cache: Any, entry: Path, notes: Path, answers: Answers) -> None:
    lock = entry / "model.hlo_module.pb.lock"
    lock.touch()

    def wait(name: ModuleName) -> str:
        assert name == NAME
        (entry / "model.done").touch()
        lock.unlink()
        return READY

    answers.wait = wait
    with cache.lookup("123", FLAGS) as found:
        assert (found.key, found.exists) == (KEY, True)
    seen = counts.read(str(notes)).as_dict()
    assert (seen["graphs"], seen["local"], seen["waited_for"]) == (1, 1, 1)
