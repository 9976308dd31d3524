"""The stand-in Neuron stack keeps the contract that the product is written against."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.neuron.graphs import Graph, load_graphs
from tests.neuron.known_hashes import CONTEXT_ENCODING, HASHES, LEGACY_HASHES, TOKEN_GENERATION
from tests.neuron.run import compiles, file_names, finish, stack_in_process, start_trainer, switch, until


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The stand-in in this process, with a cache root and a compile log of its own."""
    with stack_in_process(tmp_path / "cache", monkeypatch):
        yield tmp_path / "cache"


@pytest.fixture
def graph() -> Graph:
    return load_graphs(["softmax_cross_entropy"])[0]


def callers() -> Any:
    return importlib.import_module("tests.neuron.callers")


def record_cache_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reaches the cache, in order, through the factory that libneuronxla looks up as a module attribute."""
    from libneuronxla import neuron_cc_wrapper
    from libneuronxla.neuron_cc_cache import CompileCacheFs

    calls: list[str] = []

    class Recorder(CompileCacheFs):
        def upload_file(self, cache_path: str, src_path: str) -> None:
            super().upload_file(cache_path, src_path)
            calls.append(Path(cache_path).name)

        def upload_string_to_file(self, cache_path: str, data: str) -> None:
            super().upload_string_to_file(cache_path, data)
            calls.append(Path(cache_path).name)

        def hlo_acquire_lock(self, h: str) -> bool:
            calls.append("lock")
            return super().hlo_acquire_lock(h)

        def hlo_release_lock(self, h: str) -> None:
            super().hlo_release_lock(h)
            calls.append("unlock")

    monkeypatch.setattr(neuron_cc_wrapper, "create_compile_cache", Recorder)
    return calls


@pytest.mark.parametrize(
    ("generation", "expected", "flags"),
    [("2.14", *row) for row in LEGACY_HASHES.items()] + [("2.15+", *row) for row in HASHES.items()],
)
def test_flags_hash_vectors(monkeypatch: pytest.MonkeyPatch, generation: str, expected: str, flags: list[str]) -> None:
    from libneuronxla.neuron_cc_cache import CompileCache

    switch(monkeypatch, generation=generation)
    assert CompileCache.get_compiler_flags_hash(flags) == expected


@pytest.mark.parametrize("flags", [TOKEN_GENERATION, CONTEXT_ENCODING])
def test_flags_file_has_the_size_of_the_public_listing(tmp_path: Path, root: Path, flags: list[str]) -> None:
    from libneuronxla.neuron_cc_cache import CacheUrl, create_compile_cache

    entry = create_compile_cache(CacheUrl(str(root))).lookup("1", flags)
    (tmp_path / "hlo").write_bytes(b"hlo")
    entry.upload_inputs(str(tmp_path / "hlo"), json.dumps(flags))
    assert Path(entry.flags_path).stat().st_size == 359


@pytest.mark.parametrize(
    ("version", "hashed"),
    [
        ("2.14.227.0+2d4f85be", "--model-type=transformer"),
        ("2.15.128.0+56dc5a86", '["--model-type=transformer"]'),
        ("2.20.9961.0+0acef03a", '["--target=trn1", "--model-type=transformer"]'),
    ],
)
def test_entry_of_each_generation(
    root: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch, version: str, hashed: str
) -> None:
    switch(monkeypatch, compiler_version=version)
    monkeypatch.setenv("NEURON_CC_FLAGS", "--model-type=transformer")
    compiled = callers().pjrt(graph)
    entry = root / f"neuronxcc-{version}" / compiled.key
    assert compiled.key == f"MODULE_{graph.module_hash}+{hashlib.md5(hashed.encode()).hexdigest()[:8]}"
    flags_name = "compile_flags.txt" if version.startswith("2.14") else "compile_flags.json"
    assert (entry / flags_name).read_text() == hashed
    assert (entry / "model.hlo_module.pb").read_bytes() == graph.data
    assert (entry / "model.neff").read_bytes() == compiled.neff
    expected = {"model.hlo_module.pb", flags_name, "model.neff"}
    if not version.startswith("2.14"):
        expected.add("model.done")
        assert (entry / "model.done").stat().st_size == 0
    assert file_names(entry) == expected
    assert file_names(root, "*") == ({"lock"} if version.startswith("2.14") else set())


@pytest.mark.parametrize(
    ("switches", "order"),
    [
        ({}, "lock model.hlo_module.pb compile_flags.json model.neff wrapped_neff.hlo model.done unlock"),
        (
            {"wrapped_after_mark_s": "0.01"},
            "lock model.hlo_module.pb compile_flags.json model.neff model.done unlock wrapped_neff.hlo",
        ),
        ({"generation": "2.14"}, "model.hlo_module.pb compile_flags.txt model.neff wrapped_neff.hlo"),
    ],
)
def test_order_of_writes(
    root: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch, switches: dict[str, str], order: str
) -> None:
    from neuronxcc import neff_wrapper

    switch(monkeypatch, **switches)
    calls = record_cache_calls(monkeypatch)
    compiled = callers().nxd_builder(graph, root.with_name("nxd"), priority=True)
    assert calls == order.split()
    wrapped = next(root.rglob("wrapped_neff.hlo"))
    assert neff_wrapper.unwrap(wrapped.read_bytes()) == compiled.neff
    assert wrapped.parent.name == compiled.key


def test_lock_is_an_empty_file_that_outlives_its_holder_until_somebody_deletes_it(root: Path, graph: Graph) -> None:
    arguments = ("--graphs", graph.name)
    with start_trainer(root, *arguments, compile_s=60) as holder:
        compiler = until(lambda: compiles(root), "the compiler runs")[0]
        lock = next(root.rglob("*.lock"))
        assert lock.name == "model.hlo_module.pb.lock"
        assert lock.stat().st_size == 0
        assert file_names(root) == {"model.hlo_module.pb", "compile_flags.json", lock.name}
        os.kill(holder.pid, signal.SIGKILL)
        os.kill(compiler["pid"], signal.SIGKILL)
        holder.communicate()
    with start_trainer(root, *arguments, lock_message_s=0.02) as waiter:
        assert waiter.stderr is not None
        messages = [waiter.stderr.readline() for _ in range(3)]
        expected = f"[INFO]: Another process must be compiling {lock.parent.name}, been waiting for: 0.0 minutes\n"
        assert all(line.endswith(expected) for line in messages)
        assert waiter.poll() is None
        assert len(compiles(root)) == 1
        lock.unlink()
        assert [line["compiled"] for line in finish(waiter)] == [True]
    assert len(compiles(root)) == 2


def test_two_processes_compile_a_graph_once(root: Path, graph: Graph) -> None:
    trainers = [start_trainer(root, "--graphs", graph.name, compile_s=0.2) for _ in range(2)]
    lines = [line for trainer in trainers for line in finish(trainer)]
    assert sorted(line["compiled"] for line in lines) == [False, True]
    assert len({line["neff_sha256"] for line in lines}) == 1
    assert len(compiles(root)) == 1
    assert not file_names(root, "**/*.lock")


def test_lock_can_be_taken_in_lookup_already(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from libneuronxla.neuron_cc_cache import CacheUrl, create_compile_cache

    cache = create_compile_cache(CacheUrl(str(root)))
    entry = cache.lookup("1", [])
    assert not file_names(root)
    with entry:
        assert file_names(root) == {"model.hlo_module.pb.lock"}
        assert cache.try_lookup_for_compile(entry.hlo_path) is None
    assert not file_names(root)
    switch(monkeypatch, lock_in_lookup=1)
    entry = cache.lookup("1", [])
    assert file_names(root) == {"model.hlo_module.pb.lock"}
    with entry:
        entry.upload_neff(__file__)
        assert file_names(root) == {"model.neff", "model.done"}  # unlocked before the context ends


def test_failure_is_kept_and_replayed_until_a_retry(
    root: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import libneuronxla

    switch(monkeypatch, exit_code=70, fail_log="[F137] neuronx-cc was forcibly killed")
    with pytest.raises(subprocess.CalledProcessError) as fresh:
        libneuronxla.neuron_xla_compile(graph.data, [], cache_key="1")
    assert fresh.value.returncode == 70
    assert file_names(root) == {"model.hlo_module.pb", "compile_flags.json", "model.log"}
    log = next(root.rglob("model.log")).read_text()
    assert log.startswith("Failed compilation with ['neuronx-cc', 'compile', ")
    assert "[F137]" in log
    monkeypatch.delenv("NEURON_STANDIN_EXIT_CODE")
    with pytest.raises(subprocess.CalledProcessError) as replayed:
        libneuronxla.neuron_xla_compile(graph.data, [], cache_key="1")
    assert (replayed.value.returncode, replayed.value.cmd, replayed.value.stderr) == (-1, "", log)
    assert "Got a cached failed neff at " in capsys.readouterr().err
    assert len(compiles(root)) == 1
    libneuronxla.neuron_xla_compile(graph.data, [], cache_key="1", retry_failed_compilation=True)
    assert len(compiles(root)) == 2
    assert "model.done" in file_names(root)


def test_compiler_dies_by_a_signal_for_a_chosen_graph_only(
    graph: Graph, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import libneuronxla

    switch(monkeypatch, exit_code=-9, fail_sha256=graph.sha256[:12])
    monkeypatch.setenv("NEURON_PARALLEL_COMPILE_MAX_RETRIES", "1")
    with pytest.raises(subprocess.CalledProcessError) as died:
        libneuronxla.neuron_xla_compile(graph.data, [])
    assert died.value.returncode == -9
    assert len(compiles(root)) == 2
    libneuronxla.neuron_xla_compile(graph.data + b"\x2a\x00", [])


def test_legacy_failure_is_a_text_in_the_ready_mark(root: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    import libneuronxla

    switch(monkeypatch, generation="2.14", exit_code=70)
    for returncode in (70, -1):
        with pytest.raises(subprocess.CalledProcessError) as failed:
            libneuronxla.neuron_xla_compile(graph.data, [], cache_key="1")
        assert failed.value.returncode == returncode
    assert next(root.rglob("model.neff")).read_text().startswith("Failed compilation")
    cache = libneuronxla.create_compile_cache(
        importlib.import_module("libneuronxla.neuron_cc_cache").CacheUrl(str(root))
    )
    assert [len(found) for found in cache.get_hlos("Failed compilation")] == [0, 0, 0, 1]


def test_get_hlos_and_the_three_ways_to_clear(root: Path) -> None:
    from libneuronxla.neuron_cc_cache import CacheUrl, create_compile_cache

    cache = create_compile_cache(CacheUrl(str(root)))
    states = {"todo": (), "locked": ("hlo_module.pb.lock", "log"), "done": ("neff", "done", "log"), "failed": ("log",)}
    for state, marks in states.items():
        entry = Path(cache.get_cache_dir_with_cache_key(f"MODULE_{state}"))
        entry.mkdir(parents=True)
        for mark in ("hlo_module.pb", *marks):
            (entry / f"model.{mark}").touch()
    assert [[Path(hlo).parent.name for hlo in found] for found in cache.get_hlos()] == [
        [f"MODULE_{state}"] for state in states
    ]
    cache.clear_locks()
    assert [len(found) for found in cache.get_hlos()] == [1, 0, 1, 2]
    cache.clear_neffs()
    assert [len(found) for found in cache.get_hlos()] == [4, 0, 0, 0]
    cache.clean()
    assert not root.exists()


def test_neff_is_valid_and_two_compiles_differ_in_the_uuid_alone(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuronxcc import neff_file

    first, second = (callers().nxd_functions(graph) for _ in range(2))
    headers = [neff_file.parse_header(neff) for neff in (first, second)]
    assert headers[0].header_bytes + headers[0].data_bytes == len(first)
    assert headers[0].data_hash == hashlib.sha256(first[1024:]).digest()
    assert headers[0].build_version == "2.20.9961.0+0acef03a"
    assert headers[0].lnc_size == 1
    assert headers[0].uuid != headers[1].uuid
    assert first.replace(headers[0].uuid, headers[1].uuid, 1) == second
    (tmp_path / "data.tar").write_bytes(first[1024:])
    listing = subprocess.run(["tar", "-tf", str(tmp_path / "data.tar")], check=True, capture_output=True, text=True)
    assert "sg00/def.json" in listing.stdout.split()
    switch(monkeypatch, neff_uuid="12345678-1234-5678-1234-567812345678")
    assert len({callers().nxd_functions(graph) for _ in range(2)}) == 1
    assert len(callers().nxd_functions(load_graphs(["attention_backward"])[0])) > 2 * len(first)


def test_uncached_compile_leaves_no_entry(root: Path, graph: Graph) -> None:
    callers().nxd_functions(graph)
    assert not root.exists()
    assert len(compiles(root)) == 1


def test_pjrt_entry_returns_error_and_bytes(root: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    import libneuronxla
    from neuronxcc import neff_wrapper, wire

    error, result = libneuronxla.neuronx_cc(
        graph.data, b"hlo", b"3.0", b"MODULE_0_SyncTensorsGraph.318_18200615679846498221"
    )
    assert error == 0
    entry = next(root.glob("*/MODULE_*"))
    assert entry.name == "MODULE_18200615679846498221+fad94d7c"  # 3.0 is trn2
    assert neff_wrapper.unwrap(result) == (entry / "model.neff").read_bytes()
    assert wire.byte_fields(result, 4) == wire.byte_fields(graph.data, 4)  # same parameters and result
    error, message = libneuronxla.neuronx_cc(graph.data, b"mlir", b"2.0", b"1")
    assert error != 0
    assert b"mlir" in message
    switch(monkeypatch, exit_code=70)
    error, message = libneuronxla.neuronx_cc(graph.data, b"hlo", b"2.0", b"MODULE_1234567890")
    assert error != 0
    assert isinstance(message, bytes)


def test_wrapper_flags_reach_neither_compiler_nor_hash(
    root: Path, graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other cache"
    monkeypatch.setenv(
        "NEURON_CC_FLAGS",
        f"--cache_dir='{other}' --model-type transformer --retry_failed_compilation --log_level=INFO"
        f" --compile_workdir={tmp_path / 'work'} --dump={tmp_path / 'dump'}",
    )
    callers().pjrt(graph)
    assert not root.exists()
    entry = next(other.glob("*/MODULE_*"))
    assert entry.name.endswith("+f7f529f3")
    argv = compiles(root)[0]["argv"]
    assert argv[:2] == ["compile", "--framework=XLA"]
    assert argv[5:] == [
        *["--target=trn1", "--model-type", "transformer", "--verbose=35"],
        *["--pipeline", "compile", "SaveTemps"],
    ]
    monkeypatch.setenv("NEURON_CC_FLAGS", f"--no_cache --compile_workdir={tmp_path / 'work'}")
    callers().pjrt(graph)
    assert not root.exists()


def test_cache_url_priority(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from libneuronxla.neuron_cc_cache import CacheUrl, create_compile_cache

    monkeypatch.setenv("NEURON_CC_FLAGS", "-O1 --cache_dir=/flags")
    assert CacheUrl.get_cache_url("/argument").url == "/argument"
    assert CacheUrl.get_cache_url().url == "/flags"
    monkeypatch.setenv("NEURON_CC_FLAGS", "")
    assert CacheUrl.get_cache_url().url == str(root)
    monkeypatch.setenv("NEURON_COMPILE_CACHE_URL", "file:///mnt/cache")
    assert CacheUrl.get_cache_url().url == "/mnt/cache"
    monkeypatch.delenv("NEURON_COMPILE_CACHE_URL")
    assert CacheUrl.get_cache_url().url == "/var/tmp/neuron-compile-cache"
    cache = create_compile_cache(CacheUrl.get_cache_url("s3://bucket/cache"))
    with pytest.raises(RuntimeError, match="s3://bucket/cache"):
        cache.exists("anything")


def test_legacy_opens_the_root_lock_for_every_look(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from libneuronxla.neuron_cc_cache import CacheUrl, CompileCacheFs

    switch(monkeypatch, generation="2.14")
    cache = CompileCacheFs(CacheUrl(str(root)))
    assert not hasattr(CompileCacheFs, "lookup")
    assert not cache.exists(str(root / "nothing"))
    (root / "lock").write_bytes(b"x")
    cache.exists(str(root / "nothing"))
    assert (root / "lock").read_bytes() == b""  # opened with 'w'
    (root / "lock").unlink()
    (root / "lock").mkdir()
    with pytest.raises(IsADirectoryError):  # nothing forgives a lock that cannot be opened
        cache.exists(str(root / "nothing"))


@pytest.mark.parametrize(("generation", "early_marks"), [("2.14", []), ("2.15+", ["model.done"])])
def test_neff_can_be_written_slowly_in_place(root: Path, graph: Graph, generation: str, early_marks: list[str]) -> None:
    arguments = ("--graphs", graph.name)
    with start_trainer(root, *arguments, generation=generation, neff_write_chunks=3, neff_write_delay_s=0.3) as trainer:
        torn = until(lambda: list(root.rglob("model.neff")), "the first chunk is there")[0]
        assert torn.stat().st_size < 2 * len(graph.data)
        assert not file_names(root) & set(early_marks)
        line = finish(trainer)[0]
    assert hashlib.sha256(torn.read_bytes()).hexdigest() == line["neff_sha256"]
    assert set(early_marks) <= file_names(root)


def test_string_flags_and_subdirectories_by_generation(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    import libneuronxla

    with pytest.warns(SyntaxWarning, match="list"):
        libneuronxla.neuron_xla_compile(graph.data, "-O1", cache_key="1")
    switch(monkeypatch, generation="2.14")
    with pytest.raises(TypeError, match="create_subdir"):
        libneuronxla.neuron_xla_compile(graph.data, ["-O1"], cache_key="1", create_subdir=False)
