"""The canonical form of a run's ingredients, and its digest: the run key. See docs/runs.md.

The form is sorted JSON in ASCII without white space. What is null, empty or a default is not in it, and a number has
one spelling, so that the same ingredients give the same key in every process, host and Python.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

VERSION = 1
_PREFIX = "RUN_"
_DIGITS = 32
# Beyond this, not every whole number is a float: what is written as a float stays one.
_MOST_EXACT = 2.0**53


def run_key(ingredients: Mapping[str, Any]) -> str:
    """The key of a run with these ingredients; raises ValueError where they are no JSON."""
    return _PREFIX + _digest_of(canonical_text(ingredients))


def digest(part: Any) -> str:
    """What stands for a part of the ingredients that is too long to be told; raises ValueError where it is no JSON."""
    return _digest_of(_text_of(part))


def canonical_text(ingredients: Mapping[str, Any]) -> str:
    """What is digested. A model is its configuration, where that is known: its name is left out then."""
    document = {name: value for name, value in ingredients.items() if value not in (None, {}, [])}
    model = document.get("model")
    if isinstance(model, Mapping):
        has_config = model.get("config") is not None
        document["model"] = {name: value for name, value in model.items() if name != "id" or not has_config}
    return _text_of(document)


def plain(value: Any) -> Any:
    """`value` as JSON has it: without nulls in objects, with text as names, and one spelling a number.

    Raises ValueError for what is no JSON.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        return {_name(name): plain(part) for name, part in value.items() if part is not None}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    raise ValueError(f"a {type(value).__name__} has no place in a run key: only what JSON can say")


def _text_of(value: Any) -> str:
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest_of(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:_DIGITS]


def _number(value: float) -> int | float | str:
    if math.isnan(value) or math.isinf(value):
        return str(float(value))
    return int(value) if value.is_integer() and abs(value) < _MOST_EXACT else float(value)


def _name(name: object) -> str:
    """Of a member; a number where Python has one (as in `id2label`) and JSON cannot."""
    if isinstance(name, (str, int)) and not isinstance(name, bool):
        return str(name)
    raise ValueError(f"a {type(name).__name__} cannot be a name in a run key")
