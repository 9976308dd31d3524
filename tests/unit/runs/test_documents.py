"""Registry files of every generation, and of nobody's."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neffd.runs import documents, entries, layout
from neffd.runs.documents import Found
from neffd.runs.jsontext import BadDocument
from tests.unit.runs import golden
from tests.unit.runs.test_entries import JSON

NAME = "meta-llama/Llama-2-7b-chat-hf"
GUIDE = {
    "task": "text-generation",
    "batch_size": 1,
    "num_cores": 24,
    "auto_cast_type": "fp16",
    "sequence_length": 2048,
    "compiler_type": "neuronx-cc",
    "compiler_version": "2.12.54.0+f631c2365",
    "checkpoint_id": NAME,
    "checkpoint_revision": "c1b0db933684edbfe29a06fa47eb19cc48025e93",
    "target": None,
}


def path(folder: str, hash_: str = golden.OLD_HASH) -> layout.EntryPath:
    found = layout.parse(f"{golden.NAMESPACE}/0_REGISTRY/{folder}/{hash_}.json")
    assert found is not None
    return found


def read(document: object, folder: str) -> Found:
    return documents.read(json.dumps(document).encode(), path(folder))


@pytest.mark.parametrize("folder", [f"0.0.18/llama/{NAME}", f"0.0.24/inference/llama/{NAME}"])
def test_the_guides_entry(folder: str) -> None:
    found = read({**golden.CONFIG, "neuron": golden.OLD_NEURON}, folder)
    assert found.facts == GUIDE
    assert found.entry.model_id == NAME


def test_the_newest_generation_tells_the_same_facts() -> None:
    entry = entries.single_entry("org/model", "text-generation", golden.CONFIG, golden.NEW_NEURON)
    found = documents.read(entry.serialize().encode(), path(f"0.4.5/{golden.DIGEST}", golden.NEW_HASH))
    assert found.entry == entry
    assert found.facts == {
        **GUIDE,
        "num_cores": 2,
        "auto_cast_type": "bfloat16",
        "checkpoint_id": "org/model",
        "checkpoint_revision": None,
        "target": "trn1",
    }


def test_pipelines_with_and_without_a_class() -> None:
    parts = {"unet": {"neuron": {"static_batch_size": 2}}, "text_encoder": {"neuron": {"task": "feature-extraction"}}}
    old = read(parts, "0.0.24/inference/stable-diffusion/org/pipe")
    new = read(
        {**parts, "_entry_class": entries.MULTI, "_model_id": "org/pipe", "_task": None}, f"0.4.5/{golden.DIGEST}"
    )
    assert old.entry == new.entry
    assert (old.facts["batch_size"], old.entry.model_id, old.entry.task) == (2, "org/pipe", None)


def test_rows_of_optimum_neurons_table_are_one() -> None:
    def entry(**changes: object) -> Found:
        neuron = {**golden.NEW_NEURON, **changes}
        return read({**golden.CONFIG, "neuron": neuron, "_model_id": "a/b", "_task": "t"}, f"0.4.5/{golden.DIGEST}")

    assert entry().shape == entry(fused_qkv=True).shape == entry(torch_dtype="torch.bfloat16").shape
    for change in ({"batch_size": 2}, {"sequence_length": 1}, {"tp_degree": 8}, {"target": "trn2"}):
        assert entry(**change).shape != entry().shape


def test_the_newest_comes_first() -> None:
    def at(namespace: str, version: str, batch: int) -> Found:
        where = layout.EntryPath(namespace, version, golden.OLD_HASH, model_type="llama", model_id="a/b")
        return Found(where, entries.single_entry("a/b", "t", golden.CONFIG, {"batch_size": batch}))

    expected = [
        at("neuronxcc-2.21.1+a", "0.4.5", 2),
        at("neuronxcc-2.21.1+a", "0.4.0", 1),
        at("neuronxcc-2.9.1+a", "0.4.0", 1),
        at("neuronxcc-2.9.1+a", "0.4.0", 8),
    ]
    assert sorted(reversed(expected), key=documents.newest_first) == expected


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not JSON"),
        (b"[]", "not an object"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' * 50 + b"1" + b"}" * 50, "nested too deeply"),
        (b'"' + b"x" * (1 << 20) + b'"', "longer than"),
        (b'{"hidden_size": 1, "_entry_class": "Evil"}', "entry class"),
        (b'{"unet": 1, "_entry_class": "MultiModelCacheEntry"}', "no unet"),
        (b'{"model_type": 7}', "no model_type"),
    ],
)
def test_what_is_no_entry_says_why(data: bytes, why: str) -> None:
    with pytest.raises(BadDocument, match=why):
        documents.read(data, path("0.0.18/llama/org/model"))


@given(st.dictionaries(st.sampled_from(["model_type", "neuron", "unet", "_task", "_model_id", "_entry_class"]), JSON))
def test_no_document_is_too_odd(document: dict[str, Any]) -> None:
    for folder in ("0.0.18/llama/org/model", f"0.4.5/{golden.DIGEST}"):
        with contextlib.suppress(BadDocument):
            found = read(document, folder)
            assert sorted([found, found], key=documents.newest_first) == [found, found]
            assert {found.shape} == {found.shape}


@given(st.binary(max_size=200))
def test_no_bytes_are_too_odd(data: bytes) -> None:
    with contextlib.suppress(BadDocument):
        assert documents.read(data, path("0.0.18/llama/org/model")).shape is not None
