"""A small trainer: meets graphs, has each compiled or found, prints one JSON line a graph to stdout."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    _here = Path(__file__).resolve().parent
    sys.path[0] = str(_here.parent.parent)
    sys.path.insert(1, str(_here / "stack"))

from tests.neuron.graphs import Graph, load_graphs

ENTRIES = ("pjrt", "nxd", "nxd-wlo", "tnx")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", default="all", help="all, or names with commas between")
    parser.add_argument("--entry", choices=ENTRIES, default="pjrt")
    parser.add_argument("--install-neff", action="store_true", help="neff.install() before libneuronxla is imported")
    parser.add_argument("--hub-proxy", action="store_true", help="compile inside optimum-neuron's kind of cache proxy")
    parser.add_argument("--flags", help="NEURON_CC_FLAGS for this run")
    parser.add_argument("--work-dir", default="/tmp/nxd_model", help="root of NxD's work directories")
    return parser.parse_args()


def entry_function(name: str, work_dir: Path) -> Callable[[Graph], Any]:
    from tests.neuron import callers

    if name in ("nxd", "nxd-wlo"):
        return lambda graph: callers.nxd_builder(graph, work_dir, priority=name == "nxd-wlo")
    return callers.pjrt if name == "pjrt" else callers.transformers_neuronx


def count_compiles() -> list[str]:
    """One item for each call of the compiler by this process."""
    from libneuronxla import neuron_cc_wrapper

    calls: list[str] = []
    stock = neuron_cc_wrapper.call_neuron_compiler

    def counted(work_dir: str, input_file: str, *args: Any, **kwargs: Any) -> None:
        calls.append(input_file)
        stock(work_dir, input_file, *args, **kwargs)

    neuron_cc_wrapper.call_neuron_compiler = counted
    return calls


def train(graphs: list[Graph], compile_graph: Callable[[Graph], Any], calls: list[str]) -> None:
    for graph in graphs:
        started, before = time.monotonic(), len(calls)
        result = compile_graph(graph)
        line = {
            "graph": graph.name,
            "key": result.key,
            "seconds": round(time.monotonic() - started, 4),
            "compiled": len(calls) > before,
            "neff_sha256": hashlib.sha256(result.neff).hexdigest(),
        }
        print(json.dumps(line), flush=True)


def main() -> int:
    arguments = parse_arguments()
    if arguments.flags is not None:
        os.environ["NEURON_CC_FLAGS"] = arguments.flags
    if arguments.install_neff:
        importlib.import_module("neff").install()
    from tests.neuron.callers import hub_proxy

    graphs = load_graphs(None if arguments.graphs == "all" else arguments.graphs.split(","))
    compile_graph, calls = entry_function(arguments.entry, Path(arguments.work_dir)), count_compiles()
    if arguments.hub_proxy:
        with hub_proxy():
            train(graphs, compile_graph, calls)
    else:
        train(graphs, compile_graph, calls)
    return 0


if __name__ == "__main__":
    sys.exit(main())
