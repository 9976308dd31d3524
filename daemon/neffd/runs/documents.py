"""From a registry file, of any generation and from anybody's hands, to what it says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neff import keys
from neffd.runs.entries import MULTI, SINGLE, Entry, multi_entry, single_entry
from neffd.runs.jsontext import BadDocument, read_object, text_or_none
from neffd.runs.layout import EntryPath

# What the guide's `lookup` shows, each with the names under which the generations keep it, the newest first.
_NAMES = {
    "batch_size": ("batch_size", "static_batch_size"),
    "num_cores": ("tp_degree", "tensor_parallel_size", "num_cores", "num_neuron_cores_per_node", "num_neuron_cores"),
    "auto_cast_type": ("torch_dtype", "dtype", "auto_cast_type", "precision"),
    "sequence_length": ("sequence_length", "static_sequence_length"),
    "compiler_type": ("compiler_type",),
    "compiler_version": ("compiler_version",),
    "checkpoint_id": ("checkpoint_id",),
    "checkpoint_revision": ("checkpoint_revision",),
    "target": ("target",),
}
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32"}


@dataclass(frozen=True)
class Found:
    """An entry, and where it was found."""

    path: EntryPath
    entry: Entry

    @property
    def facts(self) -> dict[str, Any]:
        """The guide's facts, under the same names for every generation; None where the entry does not say."""
        neuron = self.entry.neuron or {}
        facts: dict[str, Any] = {"task": self.entry.task}
        for name, candidates in _NAMES.items():
            facts[name] = next((neuron[key] for key in candidates if neuron.get(key) is not None), None)
        facts["compiler_type"] = facts["compiler_type"] or "neuronx-cc"
        facts["compiler_version"] = facts["compiler_version"] or self.path.namespace.removeprefix("neuronxcc-")
        facts["checkpoint_id"] = facts["checkpoint_id"] or self.entry.model_id or None
        return facts

    @property
    def shape(self) -> tuple[Any, ...]:
        """What two entries have in common that optimum-neuron shows as one, with compiler, its own version and task."""
        facts = self.facts
        names = ("task", "batch_size", "sequence_length", "num_cores", "target")
        dtype = dtype_name(facts["auto_cast_type"])
        return (self.path.namespace, self.path.version, self.path.mode, dtype, *(str(facts[name]) for name in names))


def read(data: bytes, path: EntryPath) -> Found:
    """What a registry file says; raises BadDocument."""
    document = read_object(data)
    model_id = text_or_none(document.pop("_model_id", None)) or path.model_id or ""
    entry_class = document.pop("_entry_class", None)
    task = text_or_none(document.pop("_task", None))
    if entry_class not in (None, SINGLE, MULTI):
        raise BadDocument("an entry class that is not known")
    if entry_class == MULTI or (entry_class is None and _is_pipeline(document)):
        configs = {name: config for name, config in document.items() if isinstance(config, dict)}
        return Found(path, multi_entry(model_id, configs))
    if path.model_type and "model_type" not in document:
        document["model_type"] = path.model_type
    neuron = document.get("neuron")
    if task is None and isinstance(neuron, dict):
        task = text_or_none(neuron.get("task"))
    return Found(path, single_entry(model_id, task, document))


def newest_first(found: Found) -> tuple[Any, ...]:
    """Sort key: the newest compiler and optimum-neuron first, then as in optimum-neuron's table."""
    facts = found.facts
    order = (facts["num_cores"], facts["batch_size"], facts["sequence_length"])
    version = tuple(map(int, re.findall(r"[0-9]{1,9}", found.path.version)))
    numbers = tuple(value if isinstance(value, int) else 0 for value in order)
    return (*_reversed(keys.compiler_version(found.path.namespace)), *_reversed(version), *numbers, str(found.shape))


def dtype_name(value: object) -> str:
    """A data type under torch's name: `bf16` and `torch.bfloat16` are `bfloat16`."""
    name = str(value).removeprefix("torch.")
    return _DTYPES.get(name, name)


def _is_pipeline(document: Mapping[str, Any]) -> bool:
    return "model_type" not in document and isinstance(document.get("unet"), dict)


def _reversed(version: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-number for number in (*version, 0, 0, 0, 0)[:4])
