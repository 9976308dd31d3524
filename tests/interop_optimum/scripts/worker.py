"""A trainer with optimum-neuron that does what it is told: one JSON line in, one JSON line out.

Runs in the environment of `make interop`; PYTHONPATH brings the stand-in stack, the fakes and this project's tests.
Nothing of Neuron, of optimum-neuron or of neff is imported before a line asks for it: the order is what is tested.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

TASK = "text-generation"
HUB_CACHE = "optimum.neuron.cache.hub_cache"


def import_optimum() -> None:
    importlib.import_module(HUB_CACHE)


def install_neff() -> bool:
    return bool(importlib.import_module("neff").install())


def uninstall_neff() -> None:
    importlib.import_module("neff").uninstall()


def compile_graphs(
    graphs: list[str], work_dir: str, *, hub_cache: bool = False, model: str | None = None
) -> dict[str, str]:
    """Have graphs compiled or found, each by way of PJRT and as a weight-layout-optimised one of NxD's.

    Args:
        work_dir: NxD's; its name is among the hashed flags.
        hub_cache: inside optimum-neuron's `hub_neuronx_cache`.
        model: folder of a model's configuration, to be registered as the one that these graphs belong to.

    Returns the sha256 of the NEFF by module key.
    """
    with _hub_neuronx_cache(model) if hub_cache else contextlib.nullcontext():
        from tests.neuron import callers
        from tests.neuron.graphs import load_graphs

        shutil.rmtree(work_dir, ignore_errors=True)
        made = []
        for graph in load_graphs(graphs):
            made += [callers.pjrt(graph), callers.nxd_builder(graph, Path(work_dir), priority=True)]
    return {result.key: hashlib.sha256(result.neff).hexdigest() for result in made}


def synchronize() -> None:
    _optimum(HUB_CACHE).synchronize_hub_cache()


def cache_traced(folder: str, model: str) -> str:
    """Cache a folder as optimum-neuron caches a traced model; returns the name of its entry."""
    entry = _registry_entry(model)
    _optimum("optimum.neuron.cache.traced").cache_traced_neuron_artifacts(Path(folder), entry)
    return f"MODULE_{entry.hash}"


def cached_configurations(model: str) -> list[dict[str, Any]]:
    """Neuron configurations for which the Hub's registry says that the model is compiled."""
    return list(_optimum(HUB_CACHE).get_hub_cached_entries(model, task=TASK))


def cached_models() -> list[list[str]]:
    return sorted(map(list, _optimum(HUB_CACHE).get_hub_cached_models()))


def hooks() -> dict[str, Any]:
    """Whose factory of caches libneuronxla uses now, and which methods of its file cache are neff's."""
    cache = importlib.import_module("libneuronxla.neuron_cc_cache")
    neff = str(Path(str(importlib.import_module("neff").__file__)).parent)
    methods = {name: getattr(method, "__code__", None) for name, method in vars(cache.CompileCacheFs).items()}
    return {
        "factory": cache.create_compile_cache.__module__,
        "neff": sorted(name for name, code in methods.items() if code and code.co_filename.startswith(neff)),
    }


def versions() -> dict[str, str]:
    metadata = importlib.import_module("importlib.metadata")
    return {name: metadata.version(name) for name in ("optimum-neuron", "torch", "transformers", "huggingface_hub")}


def _hub_neuronx_cache(model: str | None) -> Any:
    return _optimum(HUB_CACHE).hub_neuronx_cache(entry=_registry_entry(model) if model else None)


def _registry_entry(model: str) -> Any:
    """What a model of this folder's configuration is registered as, compiled for two cores."""
    entries = _optimum("optimum.neuron.cache.entries.single_model")
    entry = entries.SingleModelCacheEntry.from_local_path(model, TASK)
    neuron_config = {"batch_size": 1, "sequence_length": 128, "tp_degree": 2, "target": "trn1"}
    return entries.SingleModelCacheEntry("org/tiny", TASK, entry._config, neuron_config)


def _optimum(module: str) -> Any:
    """A module of optimum-neuron that `import_optimum` has brought; annotations here do without its types."""
    assert HUB_CACHE in sys.modules, "import_optimum comes first"
    return importlib.import_module(module)


ACTIONS = {
    action.__name__: action
    for action in (
        import_optimum,
        install_neff,
        uninstall_neff,
        compile_graphs,
        synchronize,
        cache_traced,
        cached_configurations,
        cached_models,
        hooks,
        versions,
    )
}


def main() -> None:
    # Whatever is printed goes to the log; only answers may reach the pipe.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        try:
            outcome = {"result": ACTIONS[request.pop("do")](**request)}
        except Exception:
            outcome = {"error": traceback.format_exc()}
        print(json.dumps(outcome), file=answers, flush=True)


if __name__ == "__main__":
    main()
