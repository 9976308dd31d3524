from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from neff.importhook import PostImportFinder

NAME = "neff_made_up.part"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "neff_made_up").mkdir()
    (tmp_path / "neff_made_up" / "__init__.py").write_text("")
    part = tmp_path / "neff_made_up" / "part.py"
    part.write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield part
    for name in [name for name in sys.modules if name.startswith("neff_made_up")]:
        del sys.modules[name]


@pytest.fixture
def called(package: Path) -> Iterator[list[ModuleType]]:
    modules: list[ModuleType] = []
    finder = PostImportFinder(NAME, modules.append)
    finder.install()
    yield modules
    finder.uninstall()
    assert finder not in sys.meta_path


def test_it_is_told_once_the_module_is_loaded(called: list[ModuleType]) -> None:
    importlib.import_module("neff_made_up")
    assert called == []
    module = importlib.import_module(NAME)
    assert called == [module]
    assert module.value == 1
    importlib.import_module(NAME)
    assert len(called) == 1


def test_the_module_looks_as_if_nobody_had_stood_in_between(called: list[ModuleType]) -> None:
    module = importlib.import_module(NAME)
    assert module.__spec__ is not None
    assert type(module.__loader__).__name__ == type(module.__spec__.loader).__name__ == "SourceFileLoader"
    assert importlib.util.find_spec(NAME) is module.__spec__


def test_a_spec_that_is_only_looked_at_answers_like_the_real_one(called: list[ModuleType]) -> None:
    spec = importlib.util.find_spec(NAME)
    assert spec is not None
    assert spec.loader is not None
    assert spec.loader.get_source(NAME) == "value = 1\n"  # type: ignore[attr-defined]
    assert called == []


def test_it_is_told_again_after_a_reload_and_a_second_import(called: list[ModuleType]) -> None:
    module = importlib.import_module(NAME)
    importlib.reload(module)
    del sys.modules[NAME]
    again = importlib.import_module(NAME)
    assert called == [module, module, again]


def test_a_module_that_fails_to_load_fails_as_ever(called: list[ModuleType], package: Path) -> None:
    package.write_text("raise RuntimeError('broken')\n")
    with pytest.raises(RuntimeError, match="broken"):
        importlib.import_module(NAME)
    package.unlink()
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(NAME)
    assert called == []


def test_two_finders_of_this_kind_get_along(called: list[ModuleType]) -> None:
    others: list[ModuleType] = []
    other = PostImportFinder(NAME, others.append)
    other.install()
    try:
        module = importlib.import_module(NAME)
    finally:
        other.uninstall()
    assert called == others == [module]


def test_installing_twice_is_installing_once() -> None:
    before = list(sys.meta_path)
    finder = PostImportFinder(NAME, lambda module: None)
    finder.install()
    finder.install()
    assert sys.meta_path == [finder, *before]
    finder.uninstall()
    finder.uninstall()
    assert sys.meta_path == before
