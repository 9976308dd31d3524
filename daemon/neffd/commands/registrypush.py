"""optimum-neuron's registry files of a cache directory, to the repo: those that it lacks, as one commit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from neffd.commands import hub, localcache
from neffd.commands.errors import CommandError
from neffd.runs import layout
from neffd.runs.jsontext import MAX_DOCUMENT_BYTES, BadDocument, read_object
from neffd.store import fsops

_MOST = 5_000


def push(root: Path, repo_id: str) -> int:
    """Returns how many files were new; raises CommandError."""
    local = dict(_local_files(root))
    there = hub.run_async(_present(repo_id, list(local)))
    new = {path: data for path, data in local.items() if path not in there}
    if new:
        _commit(repo_id, new)
    return len(new)


def _local_files(root: Path) -> Iterator[tuple[str, bytes]]:
    """Registry files by path; an alias that is a link counts as the file in this directory that it names."""
    count = 0
    for namespace in localcache.namespaces(root):
        for folder, _, files in os.walk(root / layout.registry(namespace)):
            for file in files:
                path = Path(folder) / file
                relative = str(path.relative_to(root))
                data = _content(path, root) if layout.parse(relative) is not None else None
                if data is not None and count < _MOST:
                    count += 1
                    yield relative, data


def _content(path: Path, root: Path) -> bytes | None:
    target = path.resolve()
    if not target.is_relative_to(root):
        return None
    try:
        with open(fsops.open_regular(target), "rb") as file:
            data = file.read(MAX_DOCUMENT_BYTES + 1)
        read_object(data)
    except (OSError, BadDocument):
        return None
    return data


async def _present(repo_id: str, paths: list[str]) -> set[str]:
    async with hub.opened(repo_id) as client:
        return {str(item.get("path")) for item in await client.paths_info(paths, "main")}


def _commit(repo_id: str, files: dict[str, bytes]) -> None:
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import HfHubHTTPError

    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    try:
        with hub.api(repo_id) as api:
            api.create_commit(repo_id, operations, commit_message=f"Add {len(files)} registry entries")
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CommandError(f"the registry could not be sent to {repo_id}: {type(error).__name__}") from error
