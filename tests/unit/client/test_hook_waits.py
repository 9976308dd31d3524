"""Waiting for other processes inside stock's lock call: who may, for how long, and who goes on afterwards."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from neff.hook import Hook
from neff.keys import ModuleName
from neff.notices import Notices
from neff.protocol import FREE, READY
from tests.unit.client.hooked import KEY, MODERN, Answers

HLO = "model.hlo_module.pb"


@pytest.fixture
def lock(entry: Path) -> Path:
    """Somebody else's."""
    path = entry / f"{HLO}.lock"
    path.touch()
    return path


@pytest.fixture
def cache(stack: Any, tmp_path: Path) -> Any:
    return stack.CompileCacheFs(stack.CacheUrl(str(tmp_path), url_type="fs"))


def looked_up(cache: Any) -> Any:
    """The entry of KEY as a caller that may wait has it."""
    return cache.lookup("123", ["--target=trn1"])


def ending(lock: Path, end: str, *, ready: bool = False) -> Callable[[ModuleName], str]:
    """A daemon that sees the lock go."""

    def wait(name: ModuleName) -> str:
        lock.unlink()
        if ready:
            (lock.parent / "model.done").touch()
        return end

    return wait


@pytest.fixture
def waits(hook: Hook, cache: Any, answers: Answers, lock: Path) -> Any:
    """The entry that somebody else compiles, of a caller that may wait."""
    return looked_up(cache)


@pytest.mark.parametrize("end", [READY, FREE])
def test_the_lock_is_taken_when_the_wait_is_over(waits: Any, answers: Answers, lock: Path, end: str) -> None:
    answers.wait = ending(lock, end)
    assert waits.try_lock()
    assert answers.waits == [ModuleName(MODERN, KEY.replace("+e30acd3a", waits.key[len("MODULE_123") :]))]
    assert answers.taken == answers.waits
    assert lock.exists()


def test_without_a_word_from_the_daemon_stock_decides(waits: Any, answers: Answers) -> None:
    assert not waits.try_lock()
    assert len(answers.waits) == 1
    assert answers.taken == []


def test_who_does_not_get_it_waits_again(waits: Any, answers: Answers, lock: Path) -> None:
    turns = []

    def wait(name: ModuleName) -> str:
        turns.append(name)
        lock.unlink()
        if len(turns) < 3:
            lock.with_name("new").touch()
            lock.with_name("new").rename(lock)  # another one was quicker
        return FREE

    answers.wait = wait
    assert waits.try_lock()
    assert len(turns) == 3


def test_where_the_daemon_sees_another_directory_stock_goes_on(waits: Any, answers: Answers) -> None:
    answers.wait = lambda name: FREE
    assert not waits.try_lock()
    assert not waits.try_lock()


def test_waiters_of_a_ready_entry_queue_up_for_a_moment(
    waits: Any,
    answers: Answers,
    lock: Path,
) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            lock.unlink()

    answers.pause = pause  # type: ignore[method-assign]
    answers.wait = lambda name: READY
    assert waits.try_lock()
    assert len(pauses) == 3
    assert sum(pauses) < 0.1


def test_a_caller_that_must_not_block_never_waits(
    hook: Hook,
    cache: Any,
    answers: Answers,
    lock: Path,
    entry: Path,
) -> None:
    hlo = str(entry / HLO)
    assert cache.try_lookup_for_compile(hlo) is None
    assert cache.hlo_acquire_lock(hlo) is False
    looked_up(cache)
    cache.try_lookup_for_compile(hlo)
    assert cache.hlo_acquire_lock(hlo) is False
    assert answers.waits == []


def test_only_the_thread_that_looked_it_up_waits(waits: Any, answers: Answers) -> None:
    thread = threading.Thread(target=waits.try_lock)
    thread.start()
    thread.join()
    assert answers.waits == []


def test_turned_off_nobody_waits(waits: Any, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEFF_WAIT", "0")
    assert not waits.try_lock()
    assert answers.waits == []


def test_an_exception_of_ours_is_stocks_answer_and_ctrl_c_passes(waits: Any, answers: Answers) -> None:
    def fails(name: ModuleName) -> str:
        raise OSError("of ours")

    def interrupted(name: ModuleName) -> str:
        raise KeyboardInterrupt

    answers.wait = fails
    assert not waits.try_lock()
    answers.wait = interrupted
    with pytest.raises(KeyboardInterrupt):
        waits.try_lock()


def test_a_lock_that_is_free_costs_no_question(hook: Hook, cache: Any, answers: Answers, entry: Path) -> None:
    entry_of_ours = looked_up(cache)
    assert entry_of_ours.try_lock()
    assert answers.waits == []
    (name,) = answers.taken
    lock = Path(f"{entry_of_ours.hlo_path}.lock")
    assert answers.locks[name] == (lock.stat().st_ino, lock.stat().st_ctime_ns)
    cache.hlo_release_lock(entry_of_ours.hlo_path)
    assert answers.released == [name]
    assert not lock.exists()


def test_an_acquire_that_never_works_and_makes_no_file_does_not_spin(answers: Answers, entry: Path) -> None:
    class CompileCacheFs:
        tries = 0

        def hlo_acquire_lock(self, h: str) -> bool:
            self.tries += 1
            return False

        def lookup(self) -> None:
            assert not self.hlo_acquire_lock(str(entry / HLO))

    module: Any = ModuleType("libneuronxla.neuron_cc_cache")
    module.CompileCacheFs = CompileCacheFs
    hook = Hook(answers, Notices())
    hook.patch(module)
    cache = CompileCacheFs()
    cache.lookup()
    assert cache.tries == 1
    hook.unpatch()


def test_optimums_proxy_waits_too_though_it_is_no_file_cache(
    hook: Hook,
    answers: Answers,
    stack: Any,
    tmp_path: Path,
    lock: Path,
) -> None:
    callers = importlib.import_module("tests.neuron.callers")
    proxy = callers.HubProxyCache(stack.CacheUrl(str(tmp_path), url_type="fs"), [])
    entry_of_proxy = proxy.lookup("123", ["--target=trn1"])
    answers.wait = ending(Path(f"{entry_of_proxy.hlo_path}.lock"), READY)
    assert entry_of_proxy.try_lock()
    assert len(answers.waits) == 1


def test_unpatching_restores_the_base_class_as_well(stack: Any, answers: Answers) -> None:
    before = dict(vars(stack.CompileCache)), dict(vars(stack.CompileCacheFs))
    hook = Hook(answers, Notices())
    hook.patch(stack)
    hook.patch(stack)
    assert vars(stack.CompileCache)["lookup"] is not before[0]["lookup"]
    hook.unpatch()
    assert (dict(vars(stack.CompileCache)), dict(vars(stack.CompileCacheFs))) == before
