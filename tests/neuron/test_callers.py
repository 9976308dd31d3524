"""The ways into the stand-in end in the entries that their real counterparts make."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.neuron.env import BIN_DIR, standin_env
from tests.neuron.graphs import HLO_DIR, Graph, load_graphs
from tests.neuron.run import compiles, file_names, finish, stack_in_process, start, start_trainer, switch

GRAPH = "convolution_block"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with stack_in_process(tmp_path / "cache", monkeypatch):
        yield tmp_path / "cache"


@pytest.fixture
def graph() -> Graph:
    return load_graphs([GRAPH])[0]


def callers() -> Any:
    return importlib.import_module("tests.neuron.callers")


def test_graphs_are_those_of_the_table() -> None:
    table = (HLO_DIR / "README.md").read_text()
    graphs = load_graphs()
    assert len(graphs) == 6
    for graph in graphs:
        assert f"| `{graph.name}` | {len(graph.data)} | `{graph.sha256}` |" in table
        assert int(graph.module_hash) < 2**64


@pytest.mark.parametrize("version", ["2.14.227.0+2d4f85be", "2.15.128.0+56dc5a86", "2.20.9961.0+0acef03a"])
def test_every_caller_finds_its_entry_again(
    root: Path, graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    switch(monkeypatch, compiler_version=version)
    ways = callers()
    for _ in range(2):
        made = [
            ways.pjrt(graph),
            ways.transformers_neuronx(graph),
            ways.nxd_builder(graph, tmp_path / "nxd"),
            ways.nxd_builder(graph, tmp_path / "nxd", priority=True),
        ]
        for compiled in made:
            assert (root / f"neuronxcc-{version}" / compiled.key / "model.neff").read_bytes() == compiled.neff
    assert len({compiled.key for compiled in made}) == len(made) == len(compiles(root))


def test_nxd_key_depends_on_the_work_directory(graph: Graph, tmp_path: Path) -> None:
    one, other = (callers().nxd_builder(graph, tmp_path / name) for name in ("one", "other"))
    assert one.key.split("+")[0] != other.key.split("+")[0]
    assert one.key.split("+")[1] != other.key.split("+")[1]


def test_hub_proxy_diverts_all_compiles_and_puts_the_factory_back(root: Path, graph: Graph) -> None:
    import libneuronxla
    from libneuronxla import neuron_cc_cache, neuron_cc_wrapper

    modules: list[Any] = [libneuronxla, neuron_cc_cache, neuron_cc_wrapper]
    stock = neuron_cc_cache.create_compile_cache
    with callers().hub_proxy() as probes:
        assert all(module.create_compile_cache is not stock for module in modules)
        compiled = callers().pjrt(graph)
    assert all(module.create_compile_cache is stock for module in modules)
    assert {Path(probe).name for probe in probes} == {"model.done", "model.log"}
    assert {Path(probe).parent.name for probe in probes} == {compiled.key}
    probes.clear()
    assert callers().pjrt(graph) == compiled
    assert probes == []
    assert len(compiles(root)) == 1


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_parallel_compile_makes_what_extraction_left(
    root: Path, monkeypatch: pytest.MonkeyPatch, start_method: str
) -> None:
    monkeypatch.setenv("NEURON_EXTRACT_GRAPHS_ONLY", "1")
    graphs = load_graphs(["adam_update", GRAPH])
    for graph in graphs:
        callers().pjrt(graph)
    monkeypatch.delenv("NEURON_EXTRACT_GRAPHS_ONLY")
    assert file_names(root) == {"model.hlo_module.pb", "compile_flags.json"}
    assert compiles(root) == []
    child = start("parallel_compile.py", root, "--parallel=2", f"--start-method={start_method}")
    output, errors = child.communicate(timeout=20)
    assert child.returncode == 0, errors
    assert "Current remaining items are 2, locked are 0, failed are 0, done are 0, total is 2" in errors
    assert [report["status"] for report in json.loads(output)] == [True, True]
    assert len(compiles(root)) == 2
    for graph in graphs:
        callers().pjrt(graph)
    assert len(compiles(root)) == 2


def test_parallel_compile_exits_with_the_number_of_failures(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_EXTRACT_GRAPHS_ONLY", "1")
    graphs = load_graphs(["adam_update", GRAPH])
    for graph in graphs:
        callers().pjrt(graph)
    child = start("parallel_compile.py", root, "--parallel=1", exit_code=70, fail_sha256=graphs[0].sha256)
    child.communicate(timeout=20)
    assert child.returncode == 1


def test_trainer_prints_a_line_for_each_graph(root: Path) -> None:
    names = ["adam_update", GRAPH]
    arguments = ("--graphs", ",".join(names), "--hub-proxy", "--flags=-O1")
    first, second = (finish(start_trainer(root, *arguments)) for _ in range(2))
    assert [line["graph"] for line in first] == names
    assert [line["compiled"] for line in first + second] == [True, True, False, False]
    assert [line["neff_sha256"] for line in first] == [line["neff_sha256"] for line in second]
    assert {line["key"] for line in first} == {path.name for path in root.glob("*/MODULE_*")}


def test_trainer_installs_neff_before_the_stack_is_imported(root: Path, tmp_path: Path) -> None:
    (tmp_path / "neff.py").write_text(
        "import sys\ndef install():\n    print({'early': 'libneuronxla' not in sys.modules})\n"
    )
    environment = standin_env(root)
    environment["PYTHONPATH"] += f"{os.pathsep}{tmp_path}"
    command = [sys.executable, "-m", "tests.neuron.trainer", "--install-neff", "--graphs", GRAPH]
    done = subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("{'early': True}\n")


@pytest.mark.parametrize(
    "form",
    [
        "--target=trn1 compile --framework XLA IN --output OUT --model-type transformer --verbose=35",
        "compile --target=trn1 --framework=XLA IN --output OUT --auto-cast none --verbose=35",
        "compile --framework=XLA IN --output OUT --target=trn1 --verbose=35 --pipeline compile SaveTemps",
        "compile FOLDER --framework XLA --target trn1 --output OUT",
        "compile IN --framework XLA --target trn2 --lnc 2 -O1 --auto-cast=none --output OUT",
        "compile IN --framework XLA --target trn2 --output OUT --logfile log.txt",
        "compile --framework=XLA --target=trn2 --verbose=35 --enable-internal-neff-wrapper --output=OUT IN",
    ],
)
def test_compiler_takes_every_known_command_line(tmp_path: Path, root: Path, graph: Graph, form: str) -> None:
    from neuronxcc import neff_file

    folder, output = tmp_path / "model", tmp_path / "out.neff"
    folder.mkdir()
    (folder / "graph.hlo").write_bytes(graph.data)
    words = {"IN": str(graph.path), "FOLDER": str(folder), "OUT": str(output)}
    argv = form.replace("=OUT", f"={output}").split()
    subprocess.run(["neuronx-cc", *[words.get(word, word) for word in argv]], cwd=tmp_path, check=True)
    header = neff_file.parse_header(output.read_bytes())
    assert header.header_bytes + header.data_bytes == output.stat().st_size
    assert header.lnc_size == (2 if "--lnc 2" in form else 1)
    assert compiles(root)[0]["hlo_sha256"] == graph.sha256
    assert (tmp_path / "wrapped_neff.hlo").exists() == ("--enable-internal-neff-wrapper" in form)
    assert (tmp_path / ("log.txt" if "--logfile" in form else "log-neuron-cc.txt")).exists()


def test_compiler_version_and_usage_errors(tmp_path: Path) -> None:
    environment = standin_env(tmp_path / "cache", compiler_version="2.16.372.0+4a9b2326")
    shown = subprocess.run(["neuronx-cc", "--version"], env=environment, check=True, capture_output=True, text=True)
    assert shown.stdout.startswith("NeuronX Compiler version 2.16.372.0+4a9b2326\n")
    wrong = subprocess.run([BIN_DIR / "neuronx-cc", "compile", "nothing"], check=False, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "no input file" in wrong.stderr


def test_compiler_in_process_needs_no_command(tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(tmp_path)
    assert callers().nkipy_in_process(graph.path, tmp_path / "out.neff") == 0
    assert (tmp_path / "out.neff").stat().st_size > len(graph.data)


def test_compiler_is_found_on_path_and_started_without_tcmalloc(
    tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = tmp_path / "bin" / "neuronx-cc"
    shim.parent.mkdir()
    shim.write_text('#!/bin/sh\nprintf %s "$LD_PRELOAD" > "$SEEN"\nexit 3\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    monkeypatch.setenv("LD_PRELOAD", "/none/libtcmalloc.so.4:/none/libjemalloc.so")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        callers().nxd_functions(graph)
    assert failed.value.returncode == 3
    assert (tmp_path / "seen").read_text() == "/none/libjemalloc.so"
