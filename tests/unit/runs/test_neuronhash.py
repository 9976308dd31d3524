"""The oldest registry."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from neffd.runs import neuronhash
from neffd.runs.jsontext import BadDocument
from neffd.runs.neuronhash import HashedRun
from tests.unit.runs.test_entries import JSON

FEATURE = {
    "input_shapes": [["input_ids", [16, 128]]],
    "precision": "bfloat16",
    "num_neuron_cores": 2,
    "neuron_hash": "h",
}
MODELS = {
    "prajjwal1/bert-tiny": {"model_name_or_path": "prajjwal1/bert-tiny", "model_hash": "m", "features": [FEATURE]},
    "n": {"model_name_or_path": None, "model_hash": "n", "features": [FEATURE, FEATURE]},
}


def test_runs_by_compiler_and_model() -> None:
    named, *unnamed = neuronhash.read(json.dumps({"2.9.0.16+07bb7e8": MODELS}).encode())
    shapes = FEATURE["input_shapes"]
    assert named == HashedRun("2.9.0.16+07bb7e8", "prajjwal1/bert-tiny", "m", "h", "bfloat16", 2, shapes)
    assert [run.model_id for run in unnamed] == [None, None]


@given(st.dictionaries(st.text(max_size=5), JSON | st.just(MODELS) | st.dictionaries(st.text(max_size=3), JSON)))
def test_no_document_is_too_odd(document: dict[str, Any]) -> None:
    with contextlib.suppress(BadDocument):
        runs = neuronhash.read(json.dumps(document).encode())
        compilers = {compiler.removeprefix("neuronxcc-") for compiler in document}
        assert all(run.compiler_version in compilers for run in runs)
