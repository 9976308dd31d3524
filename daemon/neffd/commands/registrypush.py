"""optimum-neuron's registry files of a cache directory, to the repo: those that it lacks and may have."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neff.protocol import safe_text
from neffd.commands import hub, localcache, searching
from neffd.commands.errors import CommandError, no_write_access
from neffd.remotes.base import RemoteUnavailable
from neffd.remotes.hub.client import HubClient
from neffd.remotes.hub.tokens import TokenSource
from neffd.retry import Backoff
from neffd.runs import layout
from neffd.runs.jsontext import MAX_DOCUMENT_BYTES, BadDocument, read_object, text_or_none
from neffd.store import fsops

# Files of one commit; they are in memory together.
_BATCH = 200
# Another host may be committing, or the Hub have a bad moment.
_TRIES, _FIRST_S, _LONGEST_S = 5, 1.0, 15.0
_AWAY_FOR_STRANGERS = ("repo-not-found", "forbidden", "bad-token")


@dataclass(frozen=True)
class Sent:
    """How many files were new and sent, None where that failed; and whether the repo has all of them now."""

    files: int | None
    is_all: bool


def push(root: Path, repo_id: str, terms: Mapping[str, Any]) -> Sent:
    """Send what is missing; what keeps some of it here is told on stderr.

    Args:
        terms: what the daemon's status says of the remote: `allow_public` and `allow_private_models`.
    """
    try:
        return _push(root, repo_id, terms)
    except CommandError as error:
        print(f"neff: the registry could not be sent to {repo_id}: {error.message}", file=sys.stderr)
        return Sent(None, False)


def _push(root: Path, repo_id: str, terms: Mapping[str, Any]) -> Sent:
    lacking, is_public = hub.run_async(_lacking(repo_id, list(_paths(root))))
    if is_public and terms.get("allow_public") is not True:
        _tell(f"no registry entries were sent: everybody can read {repo_id}")
        print("  mend it: make it private, or say --allow_public (to a daemon: `allow_public: true`)", file=sys.stderr)
        return Sent(0, False)
    only_open = is_public and terms.get("allow_private_models") is not True
    visible: dict[str, bool] = {}
    count = held = 0
    for start in range(0, len(lacking), _BATCH):
        files = {path: entry for path in lacking[start : start + _BATCH] if (entry := _read(root, path)) is not None}
        if only_open:
            models = {entry.model_id for entry in files.values()} - set(visible)
            visible |= hub.run_async(_visible(sorted(models)))
        ours = {path: entry.data for path, entry in files.items() if not only_open or visible[entry.model_id]}
        held += len(files) - len(ours)
        if ours:
            _commit(repo_id, ours)
        count += len(ours)
    if held:
        _tell(f"{held} registry files stay here: not everybody can see their models, but {repo_id}")
    return Sent(count, not held)


@dataclass(frozen=True)
class _Entry:
    data: bytes
    model_id: str


def _paths(root: Path) -> Iterator[str]:
    """Where there are registry files, below the cache directory."""
    for namespace in localcache.namespaces(root):
        for folder, _, files in os.walk(root / layout.registry(namespace)):
            for file in files:
                path = os.path.relpath(os.path.join(folder, file), root)  # noqa: PTH118 - a walk's strings
                if layout.parse(path) is not None and _is_text(path):
                    yield path


def _is_text(path: str) -> bool:
    """Whether it can be a path in a repo: a file system takes any bytes."""
    return path.encode(errors="replace").decode() == path


def _read(root: Path, path: str) -> _Entry | None:
    """An entry; an alias that is a link counts as the file in this directory that it names."""
    try:
        target = (root / path).resolve()
        if not target.is_relative_to(root):
            return None
        with open(fsops.open_regular(target), "rb") as file:
            data = file.read(MAX_DOCUMENT_BYTES + 1)
        document = read_object(data)
    except (OSError, RuntimeError, BadDocument):  # RuntimeError: of links that lead in a circle
        return None
    where = layout.parse(path)
    return _Entry(data, text_or_none(document.get("_model_id")) or (where and where.model_id) or "")


async def _lacking(repo_id: str, paths: Sequence[str]) -> tuple[list[str], bool]:
    """Those that the repo does not have; and, if there are any, whether everybody can read it."""
    async with hub.opened(repo_id) as client:
        there = {str(item.get("path")) for item in await client.paths_info(paths, "main")}
        lacking = sorted(set(paths) - there)
        return lacking, bool(lacking) and not await client.is_private()


async def _visible(model_ids: Sequence[str]) -> dict[str, bool]:
    """Which of the models everybody can see."""
    return dict(zip(model_ids, await searching.together(_is_visible, model_ids), strict=True))


async def _is_visible(model_id: str) -> bool:
    if not layout.is_model_id(model_id):  # a folder of somebody's
        return False
    client = HubClient(hub.endpoint(), model_id, TokenSource(anonymous=True))
    try:
        return not await client.is_private()
    except RemoteUnavailable as error:
        if error.reason in _AWAY_FOR_STRANGERS:
            return False
        raise hub.refusal(error, model_id) from error
    finally:
        await client.close()


def _commit(repo_id: str, files: Mapping[str, bytes]) -> None:
    """Send files as one commit, more than once if need be: that changes nothing. Raises CommandError."""
    backoff = Backoff(_FIRST_S, _LONGEST_S, time.monotonic)
    for _ in range(_TRIES - 1):
        problem = _try(repo_id, files)
        if problem is None:
            return
        backoff.failed()
        time.sleep(backoff.wait_s)
    if problem := _try(repo_id, files):
        raise problem


def _try(repo_id: str, files: Mapping[str, bytes]) -> CommandError | None:
    """None if it is there, or what may pass by itself; raises CommandError for what will not."""
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import HfHubHTTPError

    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    try:
        with hub.api(repo_id) as api:
            api.create_commit(repo_id, operations, commit_message=f"Add {len(files)} registry entries")
    except CommandError as error:  # it did not answer
        return error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise no_write_access(repo_id) from error
        problem = CommandError(f"the Hub answered with status {status}")
        if status in (409, 412, 429) or status >= 500:
            return problem
        raise problem from error
    except (OSError, ValueError) as error:
        raise CommandError(type(error).__name__) from error
    return None


def _tell(text: str) -> None:
    print(f"neff: {safe_text(text)}", file=sys.stderr)
