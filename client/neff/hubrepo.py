"""Which Hub repo this environment asks for, under the names that optimum-neuron uses."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from neff.handlers import pass_on

_SAVED_NAME = "optimum_neuron_custom_cache"
# `name` or `organisation/name`; the Hub allows 96 characters for each.
_REPO_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)
_READ_AT_MOST_BYTES = 1024


def custom_repo(environ: Mapping[str, str] | None = None) -> str | None:
    """The repo of `CUSTOM_CACHE_REPO`, else the one saved under `HF_HOME`, else None."""
    environ = os.environ if environ is None else environ
    return _repo_id(environ.get("CUSTOM_CACHE_REPO", "")) or _repo_id(_read(saved_repo_path(environ)))


def misnamed(environ: Mapping[str, str] | None = None) -> str | None:
    """What holds something else than a repo's name, and is passed over by `custom_repo`: the variable, or the file."""
    environ = os.environ if environ is None else environ
    for where, text in (("CUSTOM_CACHE_REPO", environ.get("CUSTOM_CACHE_REPO", "")), (saved_repo_path(environ), None)):
        told = (_read(where) if text is None else text).strip()
        if told:
            return None if is_repo_id(told) else where
    return None


def saved_repo_path(environ: Mapping[str, str]) -> str:
    """File in which `neff set` (and optimum-neuron's `cache set`) keep the name of the repo."""
    return os.path.join(hf_home(environ), _SAVED_NAME)


def hf_home(environ: Mapping[str, str]) -> str:
    """Where the Hub's own tools keep what they keep."""
    home = environ.get("HOME") or "~"
    given = environ.get("HF_HOME")
    if given:
        return os.path.expandvars(os.path.expanduser(given))
    caches = environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    return os.path.join(os.path.expanduser(caches), "huggingface")


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(_READ_AT_MOST_BYTES).decode(errors="replace")
    except OSError as error:
        pass_on(error)
        return ""


def is_repo_id(text: str) -> bool:
    """Whether `text` can be the name of a repo, with or without its owner."""
    return _REPO_ID.fullmatch(text) is not None


def _repo_id(text: str) -> str | None:
    text = text.strip()
    return text if is_repo_id(text) else None
