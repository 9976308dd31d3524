"""The hook on the stand-in's cache class, with a scripted answerer in place of the daemon."""

from __future__ import annotations

import importlib
import inspect
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from neff.hook import CACHE_MODULE, Hook
from neff.keys import ModuleName
from neff.notices import Notices
from tests.unit.client.hooked import KEY, MODERN, Answers

METHODS = ("exists", "hlo_acquire_lock", "hlo_release_lock", "lookup")
LEGACY = "neuronxcc-2.14.227.0+2d4f85be"


def _placing(mark: Path) -> Callable[[ModuleName], bool]:
    """What a daemon does that has the module: make the entry, then say so."""

    def place(name: ModuleName) -> bool:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        return True

    return place


def _cache(stack: Any, root: Path) -> Any:
    """The cache as optimum-neuron makes it: the class itself, by hand."""
    return stack.CompileCacheFs(stack.CacheUrl(str(root), url_type="fs"))


def test_a_local_hit_asks_nobody(hook: Hook, stack: ModuleType, answers: Answers, entry: Path, tmp_path: Path) -> None:
    (entry / "model.done").touch()
    assert _cache(stack, tmp_path).exists(f"{entry}/model.done") is True
    assert answers.questions == []


def test_a_miss_of_the_ready_mark_asks(
    hook: Hook, stack: ModuleType, answers: Answers, entry: Path, tmp_path: Path
) -> None:
    assert _cache(stack, tmp_path).exists(f"{entry}/model.done") is False
    assert answers.questions == [(str(tmp_path), ModuleName(MODERN, KEY), False)]


def test_after_ready_the_original_looks_again_and_decides(
    hook: Hook, stack: ModuleType, answers: Answers, entry: Path, tmp_path: Path
) -> None:
    answers.answer = lambda name: True
    assert _cache(stack, tmp_path).exists(f"{entry}/model.done") is False
    answers.answer = _placing(entry / "model.done")
    assert _cache(stack, tmp_path).exists(path=f"{entry}/model.done") is True


@pytest.mark.parametrize(
    "path",
    [
        "{root}/{ns}/{key}/model.neff",
        "{root}/{ns}/{key}/model.log",
        "{root}/{ns}/{key}/model.hlo_module.pb",
        "{root}/{ns}/{key}/model.hlo_module.pb.lock",
        "{root}/{ns}/{key}/",
        "{root}/{ns}/0_REGISTRY/0.4.5/llama/org/model/abc.json",
        "{root}/{ns}/0_REGISTRY/model.done",
        "{root}/{ns}/MODULE_traced/model.done",
        "{root}/other/{key}/model.done",
        "{root}/{ns}/{key}/deeper/model.done",
        "{key}/model.done",
        "model.done",
        "",
    ],
)
def test_every_other_probe_is_a_plain_stat(
    hook: Hook, stack: ModuleType, answers: Answers, tmp_path: Path, path: str
) -> None:
    assert _cache(stack, tmp_path).exists(path.format(root=tmp_path, ns=MODERN, key=KEY)) is False
    assert answers.questions == []


def test_up_to_2_14_the_neff_is_the_mark(
    hook: Hook, stack: ModuleType, answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_STANDIN_GENERATION", "2.14")
    cache = _cache(stack, tmp_path)
    assert not cache.exists(f"{tmp_path}/{LEGACY}/{KEY}/model.done")
    assert answers.questions == []
    assert not cache.exists(f"{tmp_path}/{LEGACY}/{KEY}/model.neff")
    assert answers.questions == [(str(tmp_path), ModuleName(LEGACY, KEY), False)]


def test_a_version_without_lookup_is_wrapped_without_it(
    stack: Any, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_STANDIN_GENERATION", "2.14")
    hook = Hook(answers, Notices())
    hook.patch(stack)
    assert "lookup" not in vars(stack.CompileCacheFs)
    assert hasattr(stack.CompileCacheFs.exists, "__wrapped__")
    hook.unpatch()


def test_a_lock_of_this_process_is_told_with_the_question(
    hook: Hook, stack: ModuleType, answers: Answers, entry: Path, tmp_path: Path
) -> None:
    cache, hlo = _cache(stack, tmp_path), f"{entry}/model.hlo_module.pb"
    assert cache.hlo_acquire_lock(hlo) is True
    assert answers.taken == [ModuleName(MODERN, KEY)]
    assert cache.hlo_acquire_lock(hlo) is False
    cache.exists(f"{entry}/model.done")
    cache.hlo_release_lock(hlo)
    cache.exists(f"{entry}/model.done")
    assert [holding for _, _, holding in answers.questions] == [True, False]


def test_a_lock_of_somebody_else_is_not_ours(
    hook: Hook, stack: ModuleType, answers: Answers, entry: Path, tmp_path: Path
) -> None:
    (entry / "model.hlo_module.pb.lock").touch()
    cache = _cache(stack, tmp_path)
    assert cache.hlo_acquire_lock(f"{entry}/model.hlo_module.pb") is False
    cache.exists(f"{entry}/model.done")
    assert answers.questions[0][2] is False


def test_up_to_2_14_nothing_is_held_because_there_is_no_lock_file(
    hook: Hook, stack: ModuleType, answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_STANDIN_GENERATION", "2.14")
    cache, entry = _cache(stack, tmp_path), f"{tmp_path}/{LEGACY}/{KEY}"
    assert cache.hlo_acquire_lock(f"{entry}/model.hlo_module.pb") is True
    cache.exists(f"{entry}/model.neff")
    assert answers.questions[0][2] is False


def test_a_child_does_not_hold_the_parents_locks(
    hook: Hook, stack: ModuleType, answers: Answers, entry: Path, tmp_path: Path
) -> None:
    cache = _cache(stack, tmp_path)
    cache.hlo_acquire_lock(f"{entry}/model.hlo_module.pb")
    hook.after_fork_in_child()
    cache.exists(f"{entry}/model.done")
    assert answers.questions[0][2] is False


@pytest.mark.parametrize(("returned", "makes_file", "is_ours"), [(None, True, True), (None, False, False)])
def test_a_version_whose_lock_returns_nothing_is_judged_by_the_lock_file(
    answers: Answers, entry: Path, returned: object, makes_file: bool, is_ours: bool
) -> None:
    class CompileCacheFs:
        def exists(self, path: str) -> bool:
            return False

        def hlo_acquire_lock(self, h: str) -> object:
            if makes_file:
                Path(f"{h}.lock").touch()
            return returned

    module: Any = ModuleType(CACHE_MODULE)
    module.CompileCacheFs = CompileCacheFs
    hook = Hook(answers, Notices())
    hook.patch(module)
    cache = CompileCacheFs()
    cache.hlo_acquire_lock(f"{entry}/model.hlo_module.pb")
    cache.exists(f"{entry}/model.done")
    assert answers.questions[0][2] is is_ours
    # It was there before the second try, which therefore proves nothing new; the first lock is still held.
    cache.hlo_acquire_lock(f"{entry}/model.hlo_module.pb")
    hook.unpatch()


def test_only_a_caller_inside_lookup_may_wait(hook: Hook, stack: Any, answers: Answers, tmp_path: Path) -> None:
    seen: dict[str, bool] = {}

    class Probing(stack.CompileCacheFs):  # type: ignore[misc]
        def get_cache_dir(self, model_hash: str, compile_flags_str: str) -> Any:
            seen["here"] = hook.may_wait()
            thread = threading.Thread(target=lambda: seen.update(elsewhere=hook.may_wait()))
            thread.start()
            thread.join()
            return super().get_cache_dir(model_hash, compile_flags_str)

    Probing(stack.CacheUrl(str(tmp_path))).lookup("123", ["--target=trn1"])
    assert seen == {"here": True, "elsewhere": False}
    assert not hook.may_wait()
    with pytest.raises(TypeError):
        _cache(stack, tmp_path).lookup()
    assert not hook.may_wait()


def test_subclasses_that_call_up_are_hooked_too(hook: Hook, stack: Any, answers: Answers, tmp_path: Path) -> None:
    class Proxy(stack.CompileCacheFs):  # type: ignore[misc]
        def exists(self, path: str) -> bool:
            return bool(super().exists(path))

    assert not Proxy(stack.CacheUrl(str(tmp_path))).exists(f"{tmp_path}/{MODERN}/{KEY}/model.done")
    assert len(answers.questions) == 1


def test_optimums_proxy_and_factory_are_hooked_whenever_it_comes(
    hook: Hook, stack: Any, answers: Answers, tmp_path: Path
) -> None:
    callers = importlib.import_module("tests.neuron.callers")
    probes: list[str] = []
    stock_factory = stack.create_compile_cache
    stack.create_compile_cache = lambda url: callers.HubProxyCache(url, probes)
    cache = stack.create_compile_cache(stack.CacheUrl(str(tmp_path)))
    stack.create_compile_cache = stock_factory
    mark = f"{tmp_path}/{MODERN}/{KEY}/model.done"
    assert not cache.exists(mark)
    answers.answer = _placing(Path(mark))
    assert cache.exists(mark)
    assert len(answers.questions) == 2
    assert probes == [mark]  # the Hub was asked only where the daemon had nothing


def test_unpatching_restores_exactly_what_was_there(stack: Any, answers: Answers) -> None:
    cls = stack.CompileCacheFs
    before = dict(vars(cls))
    hook = Hook(answers, Notices())
    hook.patch(stack)
    assert all(getattr(cls, name) is not before.get(name) for name in METHODS)
    wrapped_once = dict(vars(cls))
    hook.patch(stack)
    assert dict(vars(cls)) == wrapped_once
    hook.unpatch()
    assert dict(vars(cls)) == before


def test_where_somebody_wrapped_the_wrapper_it_stays_and_does_nothing(
    stack: Any, answers: Answers, entry: Path, tmp_path: Path
) -> None:
    hook = Hook(answers, Notices())
    hook.patch(stack)
    ours = stack.CompileCacheFs.exists
    stack.CompileCacheFs.exists = lambda self, path: ours(self, path)
    hook.unpatch()
    assert not _cache(stack, tmp_path).exists(f"{entry}/model.done")
    assert answers.questions == []


def test_wrappers_look_like_the_originals(hook: Hook, stack: Any) -> None:
    for name in METHODS:
        wrapper = getattr(stack.CompileCacheFs, name)
        assert wrapper.__name__ == name
        assert inspect.signature(wrapper) == inspect.signature(wrapper.__wrapped__)


@pytest.mark.parametrize("failure", [RuntimeError("bug"), MemoryError(), OSError(5, "io"), RecursionError()])
def test_no_failure_of_ours_reaches_the_trainer(
    stack: Any, answers: Answers, entry: Path, tmp_path: Path, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise failure

    hook = Hook(answers, Notices())
    hook.patch(stack)
    answers.answer = fail
    answers.lock_taken = fail  # type: ignore[method-assign]
    cache = _cache(stack, tmp_path)
    for _ in range(3):
        assert cache.exists(f"{entry}/model.done") is False
    assert cache.hlo_acquire_lock(f"{entry}/model.hlo_module.pb") is True
    cache.hlo_release_lock(f"{entry}/model.hlo_module.pb")
    assert len(caplog.records) == 1
    hook.unpatch()


def test_a_broken_logger_does_not_reach_the_trainer_either(
    stack: Any, answers: Answers, entry: Path, tmp_path: Path
) -> None:
    class Broken(Notices):
        def say(self, reason: str, text: str) -> None:
            raise ValueError("I/O operation on closed file")

    def fail(name: ModuleName) -> bool:
        raise RuntimeError

    hook = Hook(answers, Broken())
    hook.patch(stack)
    answers.answer = fail
    assert _cache(stack, tmp_path).exists(f"{entry}/model.done") is False
    hook.unpatch()


def test_ctrl_c_passes(hook: Hook, stack: Any, answers: Answers, entry: Path, tmp_path: Path) -> None:
    def interrupt(name: ModuleName) -> bool:
        raise KeyboardInterrupt

    answers.answer = interrupt
    with pytest.raises(KeyboardInterrupt):
        _cache(stack, tmp_path).exists(f"{entry}/model.done")


def test_ctrl_c_while_a_lock_is_given_back_does_not_keep_it(
    hook: Hook, stack: Any, entry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, hlo = _cache(stack, tmp_path), f"{entry}/model.hlo_module.pb"
    assert cache.hlo_acquire_lock(hlo) is True

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hook, "_released", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.hlo_release_lock(hlo)
    assert not Path(f"{hlo}.lock").exists()


def test_ctrl_c_just_after_a_lock_was_taken_does_not_keep_it(
    hook: Hook, stack: Any, entry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    cache, hlo = _cache(stack, tmp_path), f"{entry}/model.hlo_module.pb"
    monkeypatch.setattr(hook.asker, "lock_taken", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.hlo_acquire_lock(hlo)
    assert not Path(f"{hlo}.lock").exists()


def test_failures_of_the_original_are_its_own(stack: Any, answers: Answers) -> None:
    class CompileCacheFs:
        def exists(self, path: str) -> bool:
            raise PermissionError(13, "no", path)

    module: Any = ModuleType(CACHE_MODULE)
    module.CompileCacheFs = CompileCacheFs
    hook = Hook(answers, Notices())
    hook.patch(module)
    with pytest.raises(PermissionError):
        CompileCacheFs().exists(f"/x/{MODERN}/{KEY}/model.done")
    hook.unpatch()


@pytest.mark.parametrize("cache_class", [None, 5, type("CompileCacheFs", (), {"exists": staticmethod(len)})])
def test_a_module_that_is_built_otherwise_is_left_alone(answers: Answers, cache_class: object) -> None:
    module: Any = ModuleType(CACHE_MODULE)
    if cache_class is not None:
        module.CompileCacheFs = cache_class
    hook = Hook(answers, Notices())
    hook.patch(module)
    if isinstance(cache_class, type):
        assert vars(cache_class)["exists"].__func__ is len
    hook.unpatch()


@pytest.mark.parametrize("path", [None, 5, b"/x/model.done"])
def test_arguments_of_other_kinds_go_straight_to_the_original(answers: Answers, path: object) -> None:
    class CompileCacheFs:
        def exists(self, path: object = None) -> object:
            return path == 5

    module: Any = ModuleType(CACHE_MODULE)
    module.CompileCacheFs = CompileCacheFs
    hook = Hook(answers, Notices())
    hook.patch(module)
    assert CompileCacheFs().exists(path) is (path == 5)
    assert CompileCacheFs().exists() is False
    assert answers.questions == []
    hook.unpatch()


def test_the_stand_in_is_gone_from_this_process_afterwards() -> None:
    assert CACHE_MODULE not in sys.modules
