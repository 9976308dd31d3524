"""`install()` in this process with the stand-in, and in processes of its own."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import neff
from neff.hook import CACHE_MODULE
from neff.protocol import Message
from tests.neuron.env import importable_stack, standin_env
from tests.unit.client.scripted import ScriptedDaemon, answering

NAMESPACE = "neuronxcc-2.20.9961.0+0acef03a"
KEY = "MODULE_123+e30acd3a"


@pytest.fixture(autouse=True)
def _uninstalled() -> Iterator[None]:
    yield
    neff.uninstall()


@pytest.fixture
def _stack() -> Iterator[None]:
    with importable_stack():
        yield


def _import() -> Any:
    return importlib.import_module(CACHE_MODULE)


def _is_hooked(module: Any) -> bool:
    return hasattr(module.CompileCacheFs.hlo_acquire_lock, "__wrapped__")


@pytest.mark.usefixtures("_stack")
class TestInThisProcess:
    def test_before_the_import(self) -> None:
        assert neff.install()
        assert CACHE_MODULE not in sys.modules
        assert _is_hooked(_import())

    def test_after_the_import(self) -> None:
        module = _import()
        assert not _is_hooked(module)
        assert neff.install()
        assert _is_hooked(module)

    def test_twice_is_once(self) -> None:
        finders = len(sys.meta_path)
        assert neff.install()
        module = _import()
        wrapper = module.CompileCacheFs.exists
        assert neff.install()
        assert module.CompileCacheFs.exists is wrapper
        assert len(sys.meta_path) == finders + 1

    def test_uninstall_undoes_all_and_may_be_repeated(self) -> None:
        module, finders = _import(), list(sys.meta_path)
        before = dict(vars(module.CompileCacheFs))
        neff.install()
        neff.uninstall()
        neff.uninstall()
        assert dict(vars(module.CompileCacheFs)) == before
        assert sys.meta_path == finders
        assert neff.install()
        assert _is_hooked(module)

    def test_from_many_threads_at_once(self) -> None:
        module = _import()
        before = module.CompileCacheFs.hlo_acquire_lock
        threads = [threading.Thread(target=neff.install) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        assert module.CompileCacheFs.hlo_acquire_lock.__wrapped__ is before

    @pytest.mark.parametrize(("value", "installed"), [("1", False), ("yes", False), ("0", True), ("", True)])
    def test_the_environment_turns_it_off(self, monkeypatch: pytest.MonkeyPatch, value: str, installed: bool) -> None:
        monkeypatch.setenv("NEFF_DISABLE", value)
        assert neff.install() is installed
        assert _is_hooked(_import()) is installed

    def test_the_socket_of_a_later_call_replaces_the_first(self, socket_path: Path, tmp_path: Path) -> None:
        with ScriptedDaemon(socket_path, answering(lambda *_: [{"state": "ready"}], [])) as daemon:
            neff.install("/does/not/exist")
            neff.install(daemon.path)
            neff.install()
            module = _import()
            cache = module.CompileCacheFs(module.CacheUrl(str(tmp_path)))
            assert not cache.exists(f"{tmp_path}/{NAMESPACE}/{KEY}/model.done")
            assert daemon.connections == 1
            neff.uninstall()


def test_in_the_middle_of_another_threads_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, go_on = threading.Event(), threading.Event()
    gate: Any = ModuleType("neff_test_gate")

    def pass_through() -> None:
        started.set()
        go_on.wait(5)

    gate.pass_through = pass_through
    monkeypatch.setitem(sys.modules, "neff_test_gate", gate)
    monkeypatch.syspath_prepend(tmp_path)
    package, _, module_name = CACHE_MODULE.rpartition(".")
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    (tmp_path / package / f"{module_name}.py").write_text(
        "import neff_test_gate\nneff_test_gate.pass_through()\n"
        "class CompileCacheFs:\n    def hlo_acquire_lock(self, h): return True\n"
    )
    importing, installing = threading.Thread(target=_import), threading.Thread(target=neff.install)
    try:
        importing.start()
        assert started.wait(5)
        installing.start()
        go_on.set()
        importing.join(5)
        installing.join(5)
        assert _is_hooked(sys.modules[CACHE_MODULE])
    finally:
        for name in (package, CACHE_MODULE):
            sys.modules.pop(name, None)


def test_without_libneuronxla_nothing_happens() -> None:
    assert neff.install()
    with pytest.raises(ModuleNotFoundError):
        _import()


_COMPILE = """
import sys, neff
neff.install()
from libneuronxla.neuron_cc_cache import CacheUrl, CompileCacheFs
root, key = sys.argv[1:3]
cache = CompileCacheFs(CacheUrl.get_cache_url())
print(cache.exists(f"{root}/{key}/model.done"))
"""

_POOL = """
import multiprocessing, sys, neff
neff.install()
from libneuronxla.neuron_cc_cache import CacheUrl, create_compile_cache
root = sys.argv[1]
cache = create_compile_cache(CacheUrl.get_cache_url())
def look(number):
    return cache.exists(f"{root}/MODULE_{number}+e30acd3a/model.done")
look(0)
with multiprocessing.get_context("fork").Pool(3) as pool:
    print(pool.map(look, range(1, 12)))
"""


def _run(program: str, root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**standin_env(root), **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )


def _placing(root: Path) -> Any:
    """What a daemon does: make the entry, then say so."""

    def answer(request: Message, key: str) -> list[Message]:
        entry = root / request["namespace"] / key
        entry.mkdir(parents=True, exist_ok=True)
        (entry / "model.done").touch()
        return [{"state": "ready"}]

    return answer


def test_a_trainer_finds_what_the_daemon_has_placed(socket_path: Path, tmp_path: Path) -> None:
    seen: list[Message] = []
    with ScriptedDaemon(socket_path, answering(_placing(tmp_path), seen)) as daemon:
        result = _run(_COMPILE, tmp_path, str(tmp_path / NAMESPACE), KEY, NEFFD_SOCKET=daemon.path)
    assert (result.stdout, result.stderr) == ("True\n", "")
    assert (seen[0]["root"], seen[0]["inode"]) == (str(tmp_path), tmp_path.stat().st_ino)


def test_a_trainer_without_a_daemon_says_so_once_and_goes_on(tmp_path: Path) -> None:
    result = _run(_COMPILE, tmp_path, str(tmp_path / NAMESPACE), KEY, NEFFD_SOCKET=str(tmp_path / "none"))
    assert result.stdout == "False\n"
    assert result.stderr.count("\n") == 1
    assert "neff: no daemon answers at" in result.stderr


def test_a_forked_process_pool_asks_on_connections_of_its_own(socket_path: Path, tmp_path: Path) -> None:
    seen: list[Message] = []
    with ScriptedDaemon(socket_path, answering(_placing(tmp_path), seen)) as daemon:
        result = _run(_POOL, tmp_path, str(tmp_path / NAMESPACE), NEFFD_SOCKET=daemon.path)
    assert result.stdout == f"{[True] * 11}\n"
    pids = [message["pid"] for message in seen if "pid" in message]
    assert len(pids) == len(set(pids)) >= 2
    asked = [message["keys"][0] for message in seen if "keys" in message]
    assert sorted(asked) == sorted(f"MODULE_{number}+e30acd3a" for number in range(12))


def test_an_s3_cache_is_none_of_our_business(tmp_path: Path) -> None:
    program = (
        "import neff; assert neff.install()\n"
        "from libneuronxla.neuron_cc_cache import CacheUrl, create_compile_cache\n"
        "print(type(create_compile_cache(CacheUrl.get_cache_url())).__name__)"
    )
    result = _run(program, tmp_path, NEURON_COMPILE_CACHE_URL="s3://bucket/cache")
    assert (result.stdout, result.stderr) == ("CompileCacheS3\n", "")


def test_the_end_of_the_interpreter_is_silent(socket_path: Path, tmp_path: Path) -> None:
    program = _COMPILE + "import atexit; atexit.register(lambda: cache.exists(f'{root}/MODULE_9+e30acd3a/model.done'))"
    program += (
        "\nclass Late:\n    def __del__(self): cache.exists(f'{root}/MODULE_8+e30acd3a/model.done')\nlate = Late()"
    )
    for daemon_path in (str(socket_path), str(tmp_path / "none")):
        with ScriptedDaemon(socket_path, answering(lambda *_: [{"state": "ready"}], [])):
            arguments = (str(tmp_path / NAMESPACE), KEY)
            result = _run(program, tmp_path, *arguments, NEFFD_SOCKET=daemon_path, PYTHONWARNINGS="always")
        assert "Traceback" not in result.stderr
        assert result.stderr.count("\n") == (0 if daemon_path == str(socket_path) else 1)


def test_install_runs_with_every_warning_as_an_error(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    program = "import neff; neff.install(); neff.uninstall()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=False, timeout=30, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
