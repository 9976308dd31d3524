"""From a remote's configuration to the remote."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from neffd.config import RemoteConfig
from neffd.config_defaults import hub_endpoint
from neffd.errors import ConfigError
from neffd.remotes.base import Remote
from neffd.remotes.directory import DirectoryRemote


def open_remote(config: RemoteConfig, state_dir: Path, environ: Mapping[str, str] = os.environ) -> Remote:
    """The remote that `config` describes; contacts nothing yet."""
    if config.kind == "directory":
        return DirectoryRemote(config.name, config.path)
    if config.kind in ("hub-repo", "hub-bucket"):
        # Only here: a daemon without such a remote starts sooner.
        from neffd.remotes.hub.bucket import HubBucketRemote
        from neffd.remotes.hub.repo import HubRepoRemote
        from neffd.remotes.hub.tokens import TokenSource

        endpoint = config.endpoint or hub_endpoint(environ)  # a client's remote names none
        tokens = TokenSource(config.token_file, anonymous=config.anonymous, environ=environ)
        kind = HubRepoRemote if config.kind == "hub-repo" else HubBucketRemote
        return kind(config.name, endpoint, config.repo_id, tokens, state_dir / "hub")
    raise ConfigError("remote-kind", f"remotes: {config.url}: this kind of remote is not supported yet")
