"""Shapes, numbers of cores and data types as a run key has them."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Any

Shape = int | list[Any]

_PARALLEL = re.compile(r"[a-z][a-z_]*_parallel_size")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MOST = 10**12
_MOST_SIZES = 1_000
LOGICAL_CORES = "logical_nc_config"
# How many physical cores one logical core is where nobody says it.
_LOGICAL_DEFAULTS = {"trn1": 1, "inf2": 1, "trn2": 2}
_DTYPES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "f16": "float16",
    "half": "float16",
    "fp": "float32",
    "fp32": "float32",
    "f32": "float32",
    "float": "float32",
    "fp64": "float64",
    "f64": "float64",
    "double": "float64",
}


def split_sizes(given: Mapping[str, Any]) -> tuple[dict[str, Shape], dict[str, int]]:
    """Shapes, and the sizes of the parallel layout without those of 1, by name; raises ValueError.

    Args:
        given: `batch_size`, `tensor_parallel_size` and the like; None counts as not given.
    """
    shapes: dict[str, Shape] = {}
    parallel: dict[str, int] = {}
    for name, value in given.items():
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"not a name of a shape: {name!r}")
        if value is None:
            continue
        if name == LOGICAL_CORES or _PARALLEL.fullmatch(name):
            parallel[name] = positive(name, value)
        else:
            shapes[name] = _shape(name, value)
    return shapes, {name: size for name, size in parallel.items() if size != 1 or name == LOGICAL_CORES}


def logical_cores(environ: Mapping[str, str]) -> int | None:
    """Physical cores of a logical one, as the Neuron runtime is told."""
    return _whole(environ.get("NEURON_LOGICAL_NC_CONFIG") or environ.get("NEURON_RT_VIRTUAL_CORE_SIZE"))


def without_default(parallel: Mapping[str, int], target: str | None) -> dict[str, int]:
    """The layout without a logical core of the size that it has anyway."""
    usual = _LOGICAL_DEFAULTS.get(target or "")
    return {name: size for name, size in parallel.items() if name != LOGICAL_CORES or size != usual}


def core_count(environ: Mapping[str, str]) -> int | None:
    """Cores of a process, as the Neuron runtime is told."""
    return _whole(environ.get("NEURON_RT_NUM_CORES"))


def dtype_name(value: object) -> str | None:
    """`bfloat16` for bf16, torch.bfloat16 and their like; None where nothing is said, or "auto".

    Raises ValueError for what is no name.
    """
    if value is None:
        return None
    text = value if isinstance(value, str) else getattr(value, "name", None) or getattr(value, "__name__", None)
    name = str(text or value).strip().lower().rpartition(".")[2]
    if not name or re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name) is None:
        raise ValueError(f"not a data type: {value!r}")
    return None if name == "auto" else _DTYPES.get(name, name)


def positive(name: str, value: object) -> int:
    """`value` as a whole number from 1 on, of whatever type; raises ValueError."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if not 0 < number < _MOST:
        raise ValueError(f"{name} must be a whole number from 1 on, not {value!r}")
    return number


def _shape(name: str, value: object) -> Shape:
    if not isinstance(value, (list, tuple)):
        return positive(name, value)
    if not 0 < len(value) <= _MOST_SIZES:
        raise ValueError(f"{name} holds no or too many sizes")
    return [_shape(name, part) for part in value]


def _whole(text: str | None) -> int | None:
    """A number from the environment; what is none is for the runtime to complain of."""
    if text is None or re.fullmatch(r"[0-9]{1,9}", text.strip(), re.ASCII) is None:
        return None
    return int(text) or None
