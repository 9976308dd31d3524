"""What determines a job's graphs, gathered from arguments, environment and installed packages. See docs/runs.md."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from neff.runs import sizes, stack
from neff.runs.canonical import VERSION, plain, run_key
from neff.runs.flags import normal_flags
from neff.runs.modelconfig import Config, find_model

_NAMESPACE = "neuronxcc-"


class Described(NamedTuple):
    """A run before it begins.

    Attributes:
        key: its run key.
        ingredients: the document of which the key is the digest.
        is_private: whether its model is known from this host's own files only, or said to be private.
    """

    key: str
    ingredients: dict[str, Any]
    is_private: bool


def describe(
    model: str | os.PathLike[str] | None = None,
    *,
    config: Config | None = None,
    task: str | None = None,
    dtype: object = None,
    num_cores: int | None = None,
    flags: str | Sequence[str] | None = None,
    compiler: str | None = None,
    target: str | None = None,
    packages: Mapping[str, str] | Iterable[str] | None = None,
    private: bool | None = None,
    python: str | None = None,
    environ: Mapping[str, str] | None = None,
    **given_sizes: Any,
) -> Described:
    """The run of these arguments; see `neff.run_key`, which has the same.

    Args:
        private: whether the model is; None: where it is local.
        python: a Python, or a script that one runs, whose packages count. Default: this process's.

    Raises:
        ModelConfigError: the model's configuration is not on this host.
        ValueError: an argument makes no sense.
    """
    environ = os.environ if environ is None else environ
    found = find_model(model, config, environ)
    shapes, parallel = sizes.split_sizes({sizes.LOGICAL_CORES: sizes.logical_cores(environ), **given_sizes})
    words = normal_flags(environ.get("NEURON_CC_FLAGS", "") if flags is None else flags)
    target = _target(target, environ, words.target)
    installed = stack.versions([*_names(packages), *([] if compiler else [stack.COMPILER])], python)
    own_compiler = installed.pop(stack.COMPILER, None)
    ingredients = {
        "version": VERSION,
        "model": {"id": found.id, "type": _text(found.config.get("model_type")), "config": plain(found.config)},
        "task": _text(task),
        "packages": _given(packages) or installed,
        "shapes": shapes,
        "dtype": sizes.dtype_name(dtype),
        "compiler": compiler.removeprefix(_NAMESPACE) if compiler else own_compiler,
        "target": target,
        "cores": sizes.core_count(environ) if num_cores is None else sizes.positive("num_cores", num_cores),
        "parallel": sizes.without_default(parallel, target),
        "flags": words.words,
    }
    return Described(run_key(ingredients), ingredients, found.is_local if private is None else private)


def _target(given: str | None, environ: Mapping[str, str], of_flags: str | None) -> str | None:
    named = given or environ.get("NEURON_PLATFORM_TARGET_OVERRIDE") or of_flags
    return named.strip().lower() if named else stack.host_target()


def _names(packages: Mapping[str, str] | Iterable[str] | None) -> list[str]:
    """The packages whose versions are to be looked up."""
    if packages is None:
        return list(stack.PACKAGES)
    return [] if isinstance(packages, Mapping) else list(packages)


def _given(packages: Mapping[str, str] | Iterable[str] | None) -> dict[str, str]:
    if not isinstance(packages, Mapping):
        return {}
    return {stack.normal_name(name): str(version) for name, version in packages.items() if version is not None}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
