"""A model's configuration as optimum-neuron hashes it: what differs from the defaults of its class.

The defaults are known to transformers alone. Without it `config.json` is taken as it is: whoever wrote it mostly left
the defaults out, but then its digest is a guess.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neffd.runs.entries import WHITE_LIST, without_white_list
from neffd.runs.jsontext import BadDocument

TEXT_GENERATION = "text-generation"
# Those that optimum-neuron exports; with none given, the digest of each is looked for.
TASKS = (
    TEXT_GENERATION,
    "feature-extraction",
    "fill-mask",
    "text-classification",
    "token-classification",
    "question-answering",
    "multiple-choice",
    "text2text-generation",
    "sentence-similarity",
    "image-classification",
    "object-detection",
    "semantic-segmentation",
    "zero-shot-image-classification",
    "audio-classification",
    "audio-frame-classification",
    "audio-xvector",
    "automatic-speech-recognition",
    "image-to-text",
    "image-text-to-text",
)


# What optimum-neuron 0.4.5 asks for. Other versions have other classes and defaults, and so other digests.
_TRANSFORMERS = "4.57."


@dataclass(frozen=True)
class ModelConfig:
    """A model's configuration, ready to be hashed.

    Args:
        config: without what changes no graph.
        guess: why it may not be the one that optimum-neuron hashes; empty where it is.
    """

    config: Mapping[str, Any]
    guess: str = ""

    @property
    def model_type(self) -> str:
        return str(self.config["model_type"])

    def agrees_with(self, other: Mapping[str, Any]) -> bool:
        """Whether an entry's configuration can be this one; where ours is a guess, as far as both say."""
        theirs = {name: value for name, value in without_white_list(other).items() if name != "neuron"}
        if self.guess:
            return all(theirs[name] == self.config[name] for name in theirs.keys() & self.config.keys())
        return theirs == self.config


def is_same_part(ours: Mapping[str, Any], theirs: object) -> bool:
    """Whether an entry's configuration of a pipeline's part can be ours, as far as both say."""
    if not isinstance(theirs, Mapping):
        return False
    names = {name for name in ours.keys() & theirs.keys() if name != "neuron" and not name.startswith("_")}
    return all(ours[name] == theirs[name] for name in names if name not in WHITE_LIST)


def from_json(raw: Mapping[str, Any], task: str | None) -> ModelConfig:
    """From the content of `config.json`; raises BadDocument where it has no model type."""
    if not isinstance(raw.get("model_type"), str):
        raise BadDocument("config.json has no model_type")
    config, guess = _without_defaults(raw, task)
    if config is None:
        text = raw.get("text_config")
        is_nested = task == TEXT_GENERATION and isinstance(text, dict) and isinstance(text.get("model_type"), str)
        config = text if is_nested and isinstance(text, dict) else raw
    cleaned = without_white_list(config)
    cleaned.pop("neuron", None)
    return ModelConfig(cleaned, guess)


def _without_defaults(raw: Mapping[str, Any], task: str | None) -> tuple[Mapping[str, Any] | None, str]:
    """What differs from the defaults of the model's class, or None and why that is not known."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        from transformers import CONFIG_MAPPING, __version__
    except ImportError:
        return None, "transformers is not installed"
    guess = "" if __version__.startswith(_TRANSFORMERS) else f"transformers {__version__} is not {_TRANSFORMERS}x"
    try:
        config = CONFIG_MAPPING[raw["model_type"]].from_dict(dict(raw))
        if task == TEXT_GENERATION:
            config = config.get_text_config() or config
        return config.to_diff_dict(), guess
    except KeyError:
        return None, f"this version of transformers does not know the model type {raw['model_type']!r}"
    except Exception as error:  # a configuration from anybody, read by code of many authors
        return None, f"transformers cannot read the configuration: {type(error).__name__}"
