"""Registry entries: one model's configuration and what it was compiled for, under optimum-neuron's names.

Hashes, digests and text are those of optimum-neuron 0.4.5, to the byte: both tools find each other's entries by them.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neff.runs.modelconfig import WHITE_LIST as WHITE_LIST
from neffd.runs.jsontext import BadDocument, text_or_none

SINGLE = "SingleModelCacheEntry"
MULTI = "MultiModelCacheEntry"
_NEURON_WHITE_LIST = ("input_names", "output_names", "model_type")
_UNCHECKED_PARTS = ("vae", "vae_encoder", "vae_decoder")
_HASH_LENGTH = 20
# optimum-neuron 0.4.5 means to hash the configurations of the pipeline's parts, but starts from an empty dictionary
# and keeps only what is in it: every pipeline has this digest.
_PIPELINE = {"model_type": "stable-diffusion", "configs": dict[str, Any]()}


@dataclass(frozen=True)
class Entry:
    """One entry of the registry.

    Args:
        model_id: of a Hub repo, or whatever path it was compiled from.
        model_type: of a model, or `stable-diffusion`.
        task: as optimum-neuron names it; None for a pipeline.
        config: of a model, without defaults, white list and `neuron`; of a pipeline, by part, each with its `neuron`.
        neuron: what it was compiled for.
    """

    model_id: str
    model_type: str
    task: str | None
    config: Mapping[str, Any]
    neuron: Mapping[str, Any] | None
    entry_class: str = SINGLE

    def serialize(self) -> str:
        """The file's text."""
        document = copy.deepcopy(dict(self.config))
        if self.entry_class == SINGLE:
            document["neuron"] = None if self.neuron is None else dict(self.neuron)
        document |= {"_entry_class": self.entry_class, "_model_id": self.model_id, "_task": self.task}
        return json.dumps(document, indent=2, sort_keys=True)

    @property
    def hash(self) -> str:
        """Name of the file, without `.json`."""
        return hashlib.sha512(self.serialize().encode()).hexdigest()[:_HASH_LENGTH]

    @property
    def arch_digest(self) -> str:
        """Name of the folder: the same for all entries that a model of this configuration and task can use."""
        if self.entry_class == MULTI:
            return pipeline_digest()
        return arch_digest(self.config, self.model_type, self.task)


def single_entry(
    model_id: str, task: str | None, config: Mapping[str, Any], neuron: Mapping[str, Any] | None = None
) -> Entry:
    """Entry of one model.

    Args:
        config: its configuration without defaults; `neuron` may be in it.
        neuron: what it was compiled for; None for the one in `config`.

    Raises:
        BadDocument: it has no model type.
    """
    cleaned = without_white_list(config)
    if neuron is None:
        within = cleaned.pop("neuron", None)
        neuron = within if isinstance(within, dict) else None
    model_type = text_or_none(cleaned.get("model_type"))
    if not model_type:
        raise BadDocument("no model_type")
    return Entry(model_id, model_type, task, cleaned, neuron)


def multi_entry(model_id: str, configs: Mapping[str, Mapping[str, Any]]) -> Entry:
    """Entry of a diffusers pipeline from the configuration of each part; raises BadDocument without a `unet`."""
    parts = {name: _clean_part(config) for name, config in configs.items() if name not in _UNCHECKED_PARTS}
    if "unet" not in parts:
        raise BadDocument("no unet among the parts: optimum-neuron registers no such pipeline")
    neuron = parts["unet"].get("neuron")
    neuron = neuron if isinstance(neuron, dict) else None
    return Entry(model_id, "stable-diffusion", None, parts, neuron, MULTI)


def without_white_list(config: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of `config` without what changes no graph."""
    return {name: copy.deepcopy(value) for name, value in config.items() if name not in WHITE_LIST}


def arch_digest(config: Mapping[str, Any], model_type: str, task: str | None) -> str:
    """Digest of a model's architecture: its configuration without white list and `neuron`."""
    return _sha256({"config": dict(config), "model_type": model_type, "task": task})


def pipeline_digest() -> str:
    """Digest of every diffusers pipeline."""
    return _sha256(_PIPELINE)


def legacy_hash(config: Mapping[str, Any]) -> str:
    """Name of an entry's file up to optimum-neuron 0.1, from its whole document."""
    return hashlib.sha512(json.dumps(dict(config), sort_keys=True).encode()).hexdigest()[:_HASH_LENGTH]


def _clean_part(config: Mapping[str, Any]) -> dict[str, Any]:
    part = without_white_list(config)
    if isinstance(part.get("neuron"), dict):
        part["neuron"] = {name: value for name, value in part["neuron"].items() if name not in _NEURON_WHITE_LIST}
    return part


def _sha256(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
