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


def selected_configurations(model: str, **filters: Any) -> list[dict[str, Any]]:
    """What optimum-neuron's own filters leave of them."""
    return list(_optimum(HUB_CACHE).select_hub_cached_entries(model, task=TASK, **filters))


def registered(folder: str, model: str, task: str, neuron: dict[str, Any]) -> dict[str, Any]:
    """What optimum-neuron and neffd make of the same model's configuration: hash, digest and text of its entry."""
    theirs_of = _optimum("optimum.neuron.cache.entries.single_model").SingleModelCacheEntry
    config = importlib.import_module("transformers").AutoConfig.from_pretrained(folder)
    text = config.get_text_config() if task == TASK else config
    theirs = theirs_of(model, task, text, dict(neuron))
    ours = _entry_of_neffd(folder, model, task, neuron)
    return {
        "theirs": [theirs.hash, theirs.arch_digest(), theirs.serialize()],
        "looked_for": theirs_of.from_local_path(folder, task).arch_digest(),
        "ours": [ours.hash, ours.arch_digest, ours.serialize()],
    }


def registered_pipeline(folder: str, model: str) -> dict[str, Any]:
    """The same of a diffusers pipeline."""
    multi = _optimum("optimum.neuron.cache.entries.multi_model")
    configs = {path.parent.name: json.loads(path.read_text()) for path in Path(folder).rglob("config.json")}
    ours = importlib.import_module("neffd.runs.entries").multi_entry(model, configs)
    theirs = multi.MultiModelCacheEntry(model, multi._merge_configs(folder))
    return {
        "theirs": [theirs.hash, theirs.arch_digest(), theirs.serialize()],
        "ours": [ours.hash, ours.arch_digest, ours.serialize()],
    }


def save_config(model_type: str, folder: str, changes: dict[str, Any]) -> None:
    """Write a `config.json` as transformers would with a model of this type."""
    mapping = importlib.import_module("transformers").CONFIG_MAPPING
    mapping[model_type](**changes).save_pretrained(folder)


def write_registry(root: str, folder: str, model: str, namespace: str, neuron: dict[str, Any]) -> list[str]:
    """Have neffd register a model in a cache directory; returns the new files below it."""
    writing = importlib.import_module("neffd.runs.writing")
    files = writing.write(Path(root), _entry_of_neffd(folder, model, TASK, neuron), namespace)
    return [str(path.relative_to(root)) for path in files]


def session_loss(folder: str, model_type: str, task: str, changes: dict[str, Any]) -> float:
    """The loss of `neff add`'s training session on its own inputs, by a new small model of the task."""
    session = importlib.import_module("neffd.commands.training_session")
    transformers = importlib.import_module("transformers")
    lengths = ["--sequence_length=16"]
    if task in session._SEQUENCE_PAIRS:
        lengths = ["--encoder_sequence_length=16", "--decoder_sequence_length=8"]
    sizes = ["--train_batch_size=2", "--gradient_accumulation_steps=1", "--max_steps=1", *lengths]
    args = session.parse([f"--model={folder}", f"--task={task}", "--precision=fp", *sizes])
    config = transformers.CONFIG_MAPPING[model_type](**changes)
    model_class = session._MODEL_CLASSES.get(task, "AutoModelForCausalLM")
    getattr(transformers, model_class).from_config(config).save_pretrained(folder)
    batch = transformers.default_data_collator([session.example(args, config.vocab_size)] * 2)
    return float(session.load(args, None)(**batch).loss)


def hooks() -> dict[str, Any]:
    """Whose factory libneuronxla uses now, and which methods of its file cache, inherited ones too, are neff's."""
    module = importlib.import_module("libneuronxla.neuron_cc_cache")
    cache = module.CompileCacheFs
    neff = str(Path(str(importlib.import_module("neff").__file__)).parent)
    methods = {name: getattr(getattr(cache, name), "__code__", None) for name in dir(cache)}
    return {
        "factory": module.create_compile_cache.__module__,
        "neff": sorted(name for name, code in methods.items() if code and code.co_filename.startswith(neff)),
    }


def versions() -> dict[str, str]:
    metadata = importlib.import_module("importlib.metadata")
    return {name: metadata.version(name) for name in ("optimum-neuron", "torch", "transformers", "huggingface_hub")}


def _entry_of_neffd(folder: str, model: str, task: str, neuron: dict[str, Any]) -> Any:
    raw = json.loads((Path(folder) / "config.json").read_text())
    config = importlib.import_module("neffd.runs.modelconfig").from_json(raw, task)
    assert not config.guess, config.guess
    return importlib.import_module("neffd.runs.entries").single_entry(model, task, config.config, neuron)


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
        selected_configurations,
        registered,
        registered_pipeline,
        save_config,
        write_registry,
        session_loss,
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
