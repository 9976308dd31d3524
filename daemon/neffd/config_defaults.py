"""Defaults that depend on the host: where state and socket go, which remotes there are when none are named."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neff.hubrepo import custom_repo, misnamed, saved_repo_path
from neff.protocol import safe_text
from neffd import config_values as values

DEFAULT = "default"  # the source of a value that nobody gave
HUB_VARIABLE = "HF_ENDPOINT"
PUBLIC_REPO = "aws-neuron/optimum-neuron-cache"


def default_remotes(environ: Mapping[str, str]) -> list[tuple[str, dict[str, Any]]]:
    """The remotes of a host whose configuration names none, each with its source.

    Under the names that optimum-neuron uses: the repo of CUSTOM_CACHE_REPO, the saved one, the public one, each that is
    set. The first may be written where the token allows it; the public one is read without a token.
    """
    without_variable = {name: value for name, value in environ.items() if name != "CUSTOM_CACHE_REPO"}
    saved = safe_text(saved_repo_path(environ))
    named = {custom_repo(environ): "CUSTOM_CACHE_REPO", custom_repo(without_variable): saved}
    own = [(source, repo) for repo, source in named.items() if repo and "/" in repo and repo != PUBLIC_REPO]
    remotes: list[tuple[str, dict[str, Any]]] = [(source, {"url": f"hf://{repo}"}) for source, repo in own]
    if remotes:
        remotes[0][1]["mode"] = "read-write"
    return [*remotes, (DEFAULT, {"url": f"hf://{PUBLIC_REPO}", "name": "public", "anonymous": True})]


def passed_over(environ: Mapping[str, str]) -> str | None:
    """What names a repo otherwise than as OWNER/NAME, so that `default_remotes` goes without: a variable, or a file."""
    named = custom_repo(environ)
    where = misnamed(environ)
    if where is None and named is not None and "/" not in named:
        where = "CUSTOM_CACHE_REPO" if environ.get("CUSTOM_CACHE_REPO", "").strip() else saved_repo_path(environ)
    return None if where is None else safe_text(where)


def hub_endpoint(environ: Mapping[str, str]) -> str:
    """The Hub of remotes that name none; raises ValueError with what is allowed."""
    return values.endpoint(environ.get(HUB_VARIABLE) or values.HUB)


def default_state_dir(environ: Mapping[str, str], *, root: bool) -> Path:
    """systemd's choice, else /var/lib/neffd where we may write it, else the user's own state directory."""
    if given := environ.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0])
    system = Path("/var/lib/neffd")
    if root or os.access(system, os.W_OK):
        return system
    home = environ.get("XDG_STATE_HOME") or os.path.join(environ.get("HOME") or "/", ".local", "state")  # noqa: PTH118
    return Path(home) / "neffd"


def default_socket(environ: Mapping[str, str], state_dir: Path, *, root: bool) -> Path:
    """Where the clients look for it: systemd's choice, /run/neffd for root, else the user's runtime directory."""
    if given := environ.get("RUNTIME_DIRECTORY"):
        return Path(given.partition(":")[0]) / "neffd.sock"
    if root:
        return Path("/run/neffd/neffd.sock")
    runtime = environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "neffd" / "neffd.sock" if runtime else state_dir / "neffd.sock"
