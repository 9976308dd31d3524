"""Reading a remote's keys as a whole."""

from __future__ import annotations

import json
from pathlib import Path

from neffd.remotes.base import Remote


async def all_keys(remote: Remote, namespace: str) -> frozenset[str]:
    """Every page of `remote.keys` together."""
    return frozenset([key async for page in remote.keys(namespace) for key in page])


def modules_told(shared: Path) -> set[str]:
    """The keys that manifests in a directory name: a slow run is told of in parts."""
    told = [json.loads(file.read_text())["modules"] for file in shared.rglob("RUN_*.json")]
    return {module["key"] for modules in told for module in modules}
