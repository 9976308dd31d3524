"""The registry of optimum-neuron 0.0.2 to 0.0.18's trainer: one `registry.json` at the repo's root.

{compiler version: {model: {"model_name_or_path", "model_hash", "features": [{"input_shapes", "precision",
                            "num_neuron_cores", "neuron_hash"}]}}}
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from neffd.runs.jsontext import read_object, text_or_none

FILE = "registry.json"
MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class HashedRun:
    """One training run whose graphs are in the repo, below a folder of its hashes.

    Args:
        compiler_version: as the file says, without the `neuronxcc-` of a namespace.
        model_id: None where the model had no name.
        input_shapes: name and shape of each input, as JSON.
    """

    compiler_version: str
    model_id: str | None
    model_hash: str | None
    neuron_hash: str | None
    precision: str | None
    num_cores: int | None
    input_shapes: Any


def read(data: bytes) -> list[HashedRun]:
    """Every run that the file tells of; what is not of its format is left out. Raises BadDocument."""
    runs: list[HashedRun] = []
    for compiler, models in read_object(data, MAX_BYTES).items():
        for name, model in _items(models):
            if isinstance(model, dict):
                runs += _of_model(compiler.removeprefix("neuronxcc-"), name, model)
    return runs


def _of_model(compiler: str, name: str, model: dict[str, Any]) -> Iterator[HashedRun]:
    model_hash = text_or_none(model.get("model_hash"))
    model_id = text_or_none(model.get("model_name_or_path")) or (name if name != model_hash else None)
    features = model.get("features")
    for feature in features if isinstance(features, list) else ():
        if not isinstance(feature, dict):
            continue
        cores = feature.get("num_neuron_cores")
        yield HashedRun(
            compiler,
            model_id if model_id != "null" else None,
            model_hash,
            text_or_none(feature.get("neuron_hash")),
            text_or_none(feature.get("precision")),
            cores if isinstance(cores, int) and not isinstance(cores, bool) else None,
            feature.get("input_shapes"),
        )


def _items(value: object) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from value.items()
