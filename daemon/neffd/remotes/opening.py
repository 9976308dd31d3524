"""From a remote's configuration to the remote."""

from __future__ import annotations

from neffd.config import RemoteConfig
from neffd.errors import ConfigError
from neffd.remotes.base import Remote
from neffd.remotes.directory import DirectoryRemote


def open_remote(config: RemoteConfig) -> Remote:
    """The remote that `config` describes; contacts nothing yet."""
    if config.kind == "directory":
        return DirectoryRemote(config.name, config.path)
    raise ConfigError("remote-kind", f"remotes: {config.url}: this kind of remote is not supported yet")
