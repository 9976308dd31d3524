"""Hashes, digests and text of entries, against the golden vectors."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neffd.runs.entries import WHITE_LIST, legacy_hash, multi_entry, pipeline_digest, single_entry
from neffd.runs.jsontext import BadDocument
from tests.unit.runs import golden

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.text(max_size=8).filter(lambda name: name not in ("_entry_class", "_model_id", "_task"))
CONFIGS = st.dictionaries(NAMES, JSON, max_size=5).map(lambda config: {**config, "model_type": "llama"})


def test_the_golden_vectors() -> None:
    entry = single_entry("org/model", "text-generation", golden.CONFIG, golden.NEW_NEURON)
    assert (entry.hash, entry.arch_digest) == (golden.NEW_HASH, golden.DIGEST)
    assert legacy_hash({**golden.CONFIG, "neuron": golden.OLD_NEURON}) == golden.OLD_HASH


def test_neuron_may_stand_in_the_configuration() -> None:
    entry = single_entry("org/model", "text-generation", {**golden.CONFIG, "neuron": golden.NEW_NEURON})
    assert (entry.hash, entry.arch_digest) == (golden.NEW_HASH, golden.DIGEST)


def test_what_changes_no_graph_changes_no_hash() -> None:
    config = {**golden.CONFIG, **dict.fromkeys(WHITE_LIST, "anything")}
    assert single_entry("org/model", "text-generation", config, golden.NEW_NEURON).hash == golden.NEW_HASH


@pytest.mark.parametrize("change", [{"hidden_size": 32}, {"model_type": "mistral"}, {"new": None}])
def test_any_other_fact_is_another_architecture(change: dict[str, Any]) -> None:
    entry = single_entry("org/model", "text-generation", {**golden.CONFIG, **change}, golden.NEW_NEURON)
    assert entry.arch_digest != golden.DIGEST


def test_the_architecture_is_not_what_it_was_compiled_for() -> None:
    entry = single_entry("other/name", "text-generation", golden.CONFIG, {**golden.NEW_NEURON, "batch_size": 8})
    assert entry.arch_digest == golden.DIGEST
    assert entry.hash != golden.NEW_HASH


@given(CONFIGS, st.none() | st.dictionaries(st.text(max_size=8), JSON, max_size=3), st.none() | st.text(max_size=8))
def test_the_text_of_an_entry_gives_the_entry_again(
    config: dict[str, Any], neuron: dict[str, Any] | None, task: str | None
) -> None:
    before = copy.deepcopy((config, neuron))
    config.pop("neuron", None)
    entry = single_entry("org/model", task, config, neuron)
    document = json.loads(entry.serialize())
    for name in ("_entry_class", "_model_id", "_task"):
        document.pop(name)
    again = single_entry("org/model", task, document)
    assert (again.hash, again.arch_digest) == (entry.hash, entry.arch_digest)
    assert neuron == before[1]


def test_all_pipelines_have_one_digest() -> None:
    """optimum-neuron 0.4.5 leaves every part out of what it hashes."""
    one = multi_entry("a/b", {"unet": {"neuron": {"batch_size": 1}, "sample_size": 1}, "vae": {"x": 1}})
    other = multi_entry("c/d", {"unet": {"neuron": {"batch_size": 2}}, "text_encoder": {"hidden_size": 3}})
    assert (
        one.arch_digest == other.arch_digest == hashlib.sha256(golden.EMPTY_PIPELINE).hexdigest() == pipeline_digest()
    )
    assert one.hash != other.hash
    assert "vae" not in one.config
    assert one.config["unet"] == {"neuron": {"batch_size": 1}}


def test_what_optimum_neuron_cannot_register_is_refused() -> None:
    with pytest.raises(BadDocument, match="no unet"):
        multi_entry("a/b", {"transformer": {}})
    with pytest.raises(BadDocument, match="no model_type"):
        single_entry("a/b", None, {"hidden_size": 1})
