"""A model's configuration without its defaults, or a guess at it."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from neffd.runs import modelconfig
from neffd.runs.jsontext import BadDocument
from tests.unit.runs import golden


@pytest.fixture(autouse=True)
def without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make interop` compares with the real ones."""
    monkeypatch.setitem(sys.modules, "transformers", None)


def test_without_transformers_it_is_a_guess() -> None:
    raw = {**golden.CONFIG, "torch_dtype": "bfloat16", "_name_or_path": "x", "neuron": {"batch_size": 1}}
    config = modelconfig.from_json(raw, "text-generation")
    assert config == modelconfig.ModelConfig(golden.CONFIG, "transformers is not installed")
    assert config.model_type == "llama"


def test_text_generation_means_the_text_model() -> None:
    raw = {"model_type": "llava", "text_config": {"model_type": "llama", "hidden_size": 16}}
    assert modelconfig.from_json(raw, "text-generation").model_type == "llama"
    assert modelconfig.from_json(raw, "image-text-to-text").model_type == "llava"


@pytest.mark.parametrize("raw", [{}, {"model_type": 7}, {"text_config": {"model_type": "llama"}}])
def test_without_a_type_there_is_no_model(raw: dict[str, Any]) -> None:
    with pytest.raises(BadDocument, match="no model_type"):
        modelconfig.from_json(raw, None)


@pytest.mark.parametrize(
    ("theirs", "known", "guessed"),
    [
        ({"hidden_size": 16, "layers": 2}, True, True),
        ({"hidden_size": 16, "layers": 2, "torch_dtype": "x", "neuron": {}}, True, True),
        ({"hidden_size": 16}, False, True),  # ours may state a default
        ({"hidden_size": 16, "layers": 2, "more": 1}, False, True),  # ours may leave one out
        ({"hidden_size": 32, "layers": 2}, False, False),
    ],
)
def test_whether_an_old_entry_is_of_the_same_configuration(theirs: dict[str, Any], known: bool, guessed: bool) -> None:
    ours = {"hidden_size": 16, "layers": 2}
    assert modelconfig.ModelConfig(ours).agrees_with(theirs) == known
    assert modelconfig.ModelConfig(ours, "why").agrees_with(theirs) == guessed
