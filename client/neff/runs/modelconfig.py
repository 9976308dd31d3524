"""A model's configuration: found on this host, without network and without reading a weight."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from neff.handlers import pass_on
from neff.hubrepo import hf_home, is_repo_id

# Its content, or where it is.
Config = Mapping[str, Any] | str | os.PathLike[str]

# Facts of a configuration that change no graph, as optimum-neuron has them.
WHITE_LIST = (
    "_name_or_path",
    "transformers_version",
    "_diffusers_version",
    "eos_token_id",
    "bos_token_id",
    "pad_token_id",
    "torchscript",
    "torch_dtype",
    "_commit_hash",
    "sample_size",
    "projection_dim",
    "_use_default_values",
    "_attn_implementation_autoset",
    "return_dict",
)
# `torch_dtype` under its new name.
_LEFT_OUT = frozenset({*WHITE_LIST, "dtype"})
_FILE = "config.json"
_MOST_BYTES = 4 << 20
_REVISION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")


class ModelConfigError(ValueError):
    """No usable configuration of the model is on this host."""


class Model(NamedTuple):
    """A model as a run key knows it.

    Attributes:
        id: its name on the Hub; None for one that has none.
        config: without what changes no graph.
        is_local: whether it is known from this host's own files, or from nothing but its configuration.
    """

    id: str | None
    config: dict[str, Any]
    is_local: bool


def find_model(model: str | os.PathLike[str] | None, config: Config | None, environ: Mapping[str, str]) -> Model:
    """The model of these arguments, as `neff.run_key` takes them; raises ModelConfigError."""
    name = None if model is None else os.fspath(model)
    if name is not None and _is_path(name):
        return Model(None, stripped(config if isinstance(config, Mapping) else _read_path(config or name)), True)
    if name is not None and not is_repo_id(name):
        raise ModelConfigError(f"{name!r} is neither a directory, a file, nor the name of a model on the Hub")
    if isinstance(config, Mapping):
        return Model(name, stripped(config), name is None)
    if config is not None:
        return Model(name, stripped(_read_path(config)), True)
    if name is None:
        raise ModelConfigError("neither a model nor a configuration is given")
    return Model(name, stripped(_read(_cached(name, environ), name)), False)


def stripped(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration, and those within it, without what changes no graph and without nulls."""
    kept = ((name, value) for name, value in config.items() if name not in _LEFT_OUT and value is not None)
    return {name: stripped(value) if isinstance(value, Mapping) else value for name, value in kept}


def _is_path(name: str) -> bool:
    return os.path.exists(name) or os.path.isabs(name) or name.startswith(("./", "../", "~"))


def _read_path(path: str | os.PathLike[str]) -> dict[str, Any]:
    path = os.path.expanduser(os.fspath(path))
    return _read(os.path.join(path, _FILE) if os.path.isdir(path) else path, path)


def _cached(name: str, environ: Mapping[str, str]) -> str:
    """The file in the Hub tools' cache, at the revision that `main` had when it was last looked up."""
    cache = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE") or os.path.join(hf_home(environ), "hub")
    folder = os.path.join(os.path.expanduser(cache), "models--" + name.replace("/", "--"))
    try:
        with open(os.path.join(folder, "refs", "main"), encoding="ascii") as file:
            revision = file.read(1_000).strip()
    except (OSError, ValueError) as error:
        pass_on(error)
        revision = ""
    if _REVISION.fullmatch(revision) is None:
        raise ModelConfigError(f"no {_FILE} of {name} in {cache}: `hf download {name} {_FILE}` brings it")
    return os.path.join(folder, "snapshots", revision, _FILE)


def _read(path: str, of: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        pass_on(error)
        raise ModelConfigError(f"no {_FILE} of {of}: {path}: {error.strerror}") from None
    if len(data) > _MOST_BYTES:
        raise ModelConfigError(f"{path} is too large for a configuration")
    try:
        config = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        pass_on(error)
        config = None
    if not isinstance(config, dict):
        raise ModelConfigError(f"{path} is no JSON object")
    return config
