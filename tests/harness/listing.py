"""Reading a remote's keys as a whole."""

from __future__ import annotations

from neffd.remotes.base import Remote


async def all_keys(remote: Remote, namespace: str) -> frozenset[str]:
    """Every page of `remote.keys` together."""
    return frozenset([key async for page in remote.keys(namespace) for key in page])
