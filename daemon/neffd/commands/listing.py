"""What `neff list` asks of the Hub. Listings are read page by page, and what is told of them is passed on at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from neff import keys
from neff.protocol import safe_text
from neffd.commands import hub, usedfiles
from neffd.commands.localcache import is_of_version
from neffd.commands.searching import digest_folder
from neffd.remotes.hub.client import HubClient, NotThere
from neffd.runs import documents, layout, neuronhash
from neffd.runs.documents import Found
from neffd.runs.jsontext import MAX_DOCUMENT_BYTES, BadDocument
from neffd.runs.layout import EntryPath

Item = dict[str, Any]
_PREFIX = "neuronxcc-"


@dataclass(frozen=True)
class _File:
    path: str
    size_bytes: int


async def items(client: HubClient, version: str | None, model: str | None) -> AsyncIterator[Item]:
    """Everything to tell, by compiler version, the newest first.

    Args:
        version: of the compiler, or its beginning; None for all.
        model: None for all.

    Yields:
        Facts, with `kind`: `model` (how many entries a model has), and where a version has no registry `module`; of one
        model `entry`, and `file` of its compiled files.
    """
    namespaces, has_hashes = [], False
    async for page in client.tree("", "main"):
        for item in page:
            path = str(item.get("path"))
            if item.get("type") == "directory" and keys.is_namespace(path) and _is_version(path, version):
                namespaces.append(path)
            has_hashes = has_hashes or path == neuronhash.FILE
    for namespace in sorted(namespaces, key=lambda name: (keys.compiler_version(name), name), reverse=True):
        async for found in _of_namespace(client, namespace, model):
            yield {"kind": found.pop("kind"), "compiler_version": namespace.removeprefix(_PREFIX), **found}
    if has_hashes:
        async for found in _hashed_runs(client, version, model):
            yield found


async def _of_namespace(client: HubClient, namespace: str, model: str | None) -> AsyncIterator[Item]:
    if model is not None:
        async for item in _of_model(client, namespace, model):
            yield item
        return
    has_registry = False
    async for item in _models(client, namespace):
        has_registry = True
        yield item
    if not has_registry:
        async for item in _modules(client, namespace):
            yield item


async def _models(client: HubClient, namespace: str) -> AsyncIterator[Item]:
    """One item a model; its files come one after the other, since listings are sorted."""
    current, count = None, 0
    async for path, _ in _registry_files(client, namespace):
        if path.digest is not None:
            continue  # told under the model's name as well
        group = (path.version, path.mode, path.model_type, path.model_id)
        if group != current:
            if current is not None:
                yield _model_item(current, count)
            current, count = group, 0
        count += 1
    if current is not None:
        yield _model_item(current, count)


def _model_item(group: tuple[str, str | None, str | None, str | None], count: int) -> Item:
    version, mode, model_type, model_id = group
    item: Item = {"kind": "model", "model_type": safe_text(model_type), "model_id": safe_text(model_id)}
    return {**item, "entries": count, "optimum_neuron": version, "mode": mode}


async def _registry_files(client: HubClient, namespace: str) -> AsyncIterator[tuple[EntryPath, str]]:
    """Every entry's file: what its path says, and the path."""
    async for file in _files(client, layout.registry(namespace)):
        path = layout.parse(file.path)
        if path is not None:
            yield path, file.path


async def _modules(client: HubClient, namespace: str) -> AsyncIterator[Item]:
    """The bare modules of a compiler version, each with its size."""
    current, size_bytes = "", 0
    async for file in _files(client, namespace):
        name = file.path.split("/")[1]
        if name != current:
            if current:
                yield {"kind": "module", "module": safe_text(current), "size_bytes": size_bytes}
            current, size_bytes = (name if name.startswith("MODULE_") else ""), 0
        size_bytes += file.size_bytes
    if current:
        yield {"kind": "module", "module": safe_text(current), "size_bytes": size_bytes}


async def _of_model(client: HubClient, namespace: str, model: str) -> AsyncIterator[Item]:
    """Its entries; and its compiled files: in a folder of the entry's own (traced models), or as runs used them."""
    hashes: dict[str, None] = {}
    async for path, found in _entries(client, namespace, model):
        hashes[path.hash] = None
        if found is not None:
            yield _entry_item(found)
    for name in hashes:
        async for file in _files(client, f"{namespace}/MODULE_{name}"):
            yield {"kind": "file", "path": safe_text(file.path), "size_bytes": file.size_bytes}
    async for file_path, size_bytes in usedfiles.of_model(client, namespace, model):
        yield {"kind": "file", "path": safe_text(file_path), "size_bytes": size_bytes}


async def _entries(client: HubClient, namespace: str, model: str) -> AsyncIterator[tuple[EntryPath, Found | None]]:
    """A model's entries, None for what is none: those under its name, and what lies beside these without an alias."""
    seen: set[tuple[str, str]] = set()
    folders: dict[str, None] = {}
    async for path, file_path in _registry_files(client, namespace):
        if path.model_id == model:
            seen.add((path.version, path.hash))
            found = await _read(client, path, file_path)
            yield path, found
            if found is not None and (folder := digest_folder(found)) is not None:
                folders[folder] = None
    for folder in folders:
        async for file in _files(client, folder):
            beside = layout.parse(file.path)
            if beside is not None and (beside.version, beside.hash) not in seen:
                found = await _read(client, beside, file.path)
                if found is not None and found.entry.model_id == model:
                    yield beside, found


async def _read(client: HubClient, path: EntryPath, file_path: str) -> Found | None:
    try:
        return documents.read(await hub.content(client, file_path, MAX_DOCUMENT_BYTES), path)
    except (BadDocument, NotThere):
        return None


def _entry_item(found: Found) -> Item:
    path, facts = found.path, found.facts
    del facts["compiler_version"]
    return {"kind": "entry", "hash": path.hash, **facts, "optimum_neuron": path.version, "mode": path.mode}


async def _hashed_runs(client: HubClient, version: str | None, model: str | None) -> AsyncIterator[Item]:
    """What the oldest registry tells."""
    try:
        runs = neuronhash.read(await hub.content(client, neuronhash.FILE, neuronhash.MAX_BYTES))
    except (BadDocument, NotThere):
        return
    for run in runs:
        if _is_version(_PREFIX + run.compiler_version, version) and model in (None, run.model_id):
            facts = {name: value for name, value in vars(run).items() if name != "compiler_version"}
            yield {"kind": "entry", "compiler_version": safe_text(run.compiler_version), **facts}


async def _files(client: HubClient, folder: str) -> AsyncIterator[_File]:
    """Every file below a folder; none where there is no such folder."""
    async for page in hub.pages(client, folder, recursive=True):
        for item in page:
            size = item.get("size")
            if item.get("type") == "file":
                yield _File(str(item.get("path")), size if isinstance(size, int) else 0)


def _is_version(namespace: str, wanted: str | None) -> bool:
    return wanted is None or is_of_version(namespace, wanted)
