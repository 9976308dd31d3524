"""The compiled files that a model's recorded runs used: what `neff list --model` knows beside the registry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from neffd.commands import hub
from neffd.commands.searching import together
from neffd.layouts import xla
from neffd.remotes.base import RUNS_FOLDER
from neffd.remotes.hub.client import HubClient, NotThere
from neffd.runs import layout, manifests
from neffd.runs.jsontext import BadDocument
from neffd.runs.manifests import Manifest

# A model with more manifests than this has modules enough to look at.
_MOST_MANIFESTS = 500
_NO_OWNER = "-"


async def of_model(client: HubClient, namespace: str, model: str) -> AsyncIterator[tuple[str, int]]:
    """Path and size in bytes of every file of the modules that runs of `model` used, as far as the repo has them."""
    if not layout.is_model_id(model):
        return
    paths = [path for folder in await _folders(client, namespace, model) for path in await _manifests(client, folder)]
    read = await together(lambda path: _read(client, path), paths[:_MOST_MANIFESTS])
    used = manifests.union(manifest for manifest in read if manifest is not None)
    wanted = [f"{namespace}/{module.key}/{file}" for module in used for file in (*xla.INPUTS, *xla.OUTPUTS)]
    there = {str(item.get("path")): item.get("size") for item in await client.paths_info(wanted, "main")}
    for path in wanted:
        if path in there:
            size = there[path]
            yield path, size if isinstance(size, int) else 0


async def _folders(client: HubClient, namespace: str, model: str) -> list[str]:
    """The model's folder below each type that there is."""
    name = model if "/" in model else f"{_NO_OWNER}/{model}"
    types = [str(item.get("path")) for item in await _listed(client, f"{namespace}/{RUNS_FOLDER}")]
    found = await client.paths_info([f"{folder}/{name}" for folder in types], "main") if types else []
    return [str(item.get("path")) for item in found if item.get("type") == "directory"]


async def _manifests(client: HubClient, folder: str) -> list[str]:
    paths = [str(item.get("path")) for item in await _listed(client, folder)]
    return [path for path in paths if manifests.parse_path(path) is not None]


async def _read(client: HubClient, path: str) -> Manifest | None:
    try:
        return manifests.decode(path, await hub.content(client, path, manifests.MAX_BYTES))
    except (BadDocument, NotThere):
        return None


async def _listed(client: HubClient, folder: str) -> list[dict[str, Any]]:
    """What is directly in a folder; nothing where there is none."""
    return [item async for page in hub.pages(client, folder) for item in page]
