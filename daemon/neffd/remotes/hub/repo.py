"""A model repo on the Hub as a remote; its tree is the cache directory's, as optimum-neuron keeps it.

All files of an entry are read at one commit. Entries are published by commits that name their parent, so that two hosts
can never mix theirs; whatever became of a commit whose answer was lost, the next look at the repo tells.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from neff import keys
from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.remotes import provenance
from neffd.remotes.base import (
    Access,
    EntryFailed,
    OutgoingEntry,
    PublishResult,
    RemoteEntry,
    RemoteFile,
    RemoteUnavailable,
)
from neffd.remotes.hub.budget import CommitBudget
from neffd.remotes.hub.client import HubClient, NotThere
from neffd.remotes.hub.files import IncomingFile, create_empty
from neffd.remotes.hub.lookups import Lookups
from neffd.remotes.hub.plan import CommitPlan, describe_commit, files_of, make_plan
from neffd.remotes.hub.tokens import TokenSource
from neffd.remotes.hub.workers import HubCallFailed, HubWorker
from neffd.remotes.provenance import FileDigest
from neffd.store import fsops
from neffd.store.root import PART_SUFFIX
from neffd.tasks import Tasks

log = logging.getLogger(__name__)
T = TypeVar("T")

_PARALLEL_FILES = 64
_PIECE_BYTES = 1 << 20
_THREADS = 16
# Another commit was faster: look again and try again, a few times before the usual back-off.
_CONFLICT_TRIES = 5
_CONFLICT_PAUSE_S = 0.5


class HubRepoRemote:
    """See `neffd.remotes.base.Remote`.

    Args:
        endpoint: base URL of the Hub.
        repo_id: `org/name` of a model repo.
        home: folder for the worker process's own caches.
    """

    def __init__(
        self,
        name: str,
        endpoint: str,
        repo_id: str,
        tokens: TokenSource,
        home: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._repo_id = repo_id
        self._tokens = tokens
        self._client = HubClient(endpoint, repo_id, tokens)
        self._worker = HubWorker(home, endpoint)
        self._budget = CommitBudget(clock)
        self._tasks = Tasks()
        self._lookups = Lookups(self._look_up, self._tasks)
        self._files_under_way = asyncio.Semaphore(_PARALLEL_FILES)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"neffd-remote-{name}")
        self._head = ""

    async def access(self) -> Access:
        found = await self._call_worker("access", repo_id=self._repo_id)
        return Access(found["can_write"], found["public"], found["reason"])

    async def version(self, namespace: str) -> Hashable:
        self._head = await self._client.head()
        return self._head

    async def keys(self, namespace: str) -> frozenset[str]:
        return frozenset(filter(keys.is_module_key, await self._folders(namespace)))

    async def namespaces(self) -> list[str]:
        self._head = await self._client.head()
        return sorted(filter(keys.is_namespace, await self._folders("")))

    async def describe(self, name: ModuleName) -> RemoteEntry | None:
        revision = self._head or await self._client.head()
        paths = [f"{name}/{file}" for file in sorted(xla.SHARED)]
        present = await self._lookups.files(paths, revision)
        files = {path.rpartition("/")[2]: file for path, file in present.items()}
        if keys.ready_mark(name.namespace) not in files or files.get(xla.NEFF, _NOTHING).size_bytes == 0:
            return None
        return RemoteEntry(name, tuple(files.values()), revision)

    async def download(
        self, entry: RemoteEntry, directory: Path, progress: Callable[[int], None]
    ) -> dict[str, FileDigest]:
        # What a rank waits for first: the NEFF, then the rest.
        files = sorted(entry.files, key=lambda file: file.name != xla.NEFF)
        transfers = [
            self._tasks.start(self._get(entry, file, directory, progress), name=f"get-{file.name}", watched=True)
            for file in files
        ]
        try:
            digests = await asyncio.gather(*transfers)
        finally:
            for transfer in transfers:
                transfer.cancel()
            await asyncio.gather(*transfers, return_exceptions=True)
        return {file.name: digest for file, digest in zip(files, digests, strict=True)}

    async def publish(self, entries: Sequence[OutgoingEntry]) -> list[PublishResult | EntryFailed]:
        changed = await self._in_thread(lambda: [entry.name for entry in entries if _has_changed(entry)])
        sound = [entry for entry in entries if entry.name not in changed]
        there = await self._publish(sound) if sound else set()
        outcomes: list[PublishResult | EntryFailed] = []
        for entry in entries:
            if entry.name in changed:
                outcomes.append(EntryFailed("changed-locally"))
            else:
                outcomes.append(PublishResult.ALREADY_THERE if entry.name in there else PublishResult.STORED)
        return outcomes

    async def close(self) -> None:
        await self._worker.close()
        await self._client.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _folders(self, path: str) -> list[str]:
        found = []
        try:
            async for page in self._client.tree(path, self._head):
                found += [item["path"].rpartition("/")[2] for item in page if item.get("type") == "directory"]
        except NotThere:
            return []
        except (KeyError, AttributeError):
            raise RemoteUnavailable("bad-answer", "a listing's item has no path") from None
        return found

    async def _look_up(self, paths: list[str], revision: str) -> dict[str, RemoteFile]:
        try:
            found = await self._client.paths_info(paths, revision)
        except NotThere:
            raise RemoteUnavailable("revision-gone", "the history was rewritten") from None
        asked = set(paths)
        files = (_remote_file(item) for item in found if item.get("type") == "file")
        return {path: file for path, file in files if path in asked}

    async def _get(
        self, entry: RemoteEntry, file: RemoteFile, directory: Path, progress: Callable[[int], None]
    ) -> FileDigest:
        target = directory / (file.name + PART_SUFFIX)
        if file.size_bytes == 0:
            return await self._in_thread(create_empty, target)
        async with self._files_under_way:
            incoming = await self._in_thread(IncomingFile, target, file)
            try:
                async with self._client.open_file(entry.revision, f"{entry.name}/{file.name}") as content:
                    async for piece in content.iter_chunked(_PIECE_BYTES):
                        await self._in_thread(incoming.write, piece)
                        progress(len(piece))
                return await self._in_thread(incoming.finish)
            except NotThere:
                raise RemoteUnavailable("revision-gone", f"{file.name} went away") from None
            finally:
                await self._in_thread(incoming.close)

    async def _publish(self, entries: Sequence[OutgoingEntry]) -> set[ModuleName]:
        """Bring all `entries` to the repo; returns those that another host had published first."""
        for attempt in range(_CONFLICT_TRIES):
            head = self._head = await self._client.head()
            present = await self._look_up([path for entry in entries for path in files_of(entry)], head)
            plan = make_plan(entries, present)
            if not plan.add and not plan.delete:
                return {entry.name for entry in plan.there}
            if self._budget.wait_s > 0:
                raise RemoteUnavailable("commit-budget", retry_after_s=self._budget.wait_s)
            try:
                await self._commit(plan, head)
            except _Conflict:
                await asyncio.sleep(_CONFLICT_PAUSE_S * 2**attempt * (0.5 + random.random()))
                continue
            return {entry.name for entry in plan.there}
        raise RemoteUnavailable("conflict", "other commits were faster")

    async def _commit(self, plan: CommitPlan, parent: str) -> None:
        message, description = describe_commit(plan.brings)
        self._budget.spend()
        result = await self._call_worker(
            "commit",
            repo_id=self._repo_id,
            parent=parent,
            message=message,
            description=description,
            add=[[path, _content(entry, file)] for path, (entry, file) in plan.add.items()],
            delete=plan.delete,
        )
        self._head = str(result["commit"])
        log.info("commit %s to %s: %s", self._head[:8], self._repo_id, message)

    async def _call_worker(self, op: str, **fields: Any) -> dict[str, Any]:
        try:
            return await self._worker.call(op, token=self._tokens.get(), **fields)
        except HubCallFailed as error:
            raise _outcome(error) from error

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)


class _Conflict(Exception):
    """The branch moved, or is locked by another commit."""


_NOTHING = RemoteFile("", 0)


def _remote_file(item: dict[str, Any]) -> tuple[str, RemoteFile]:
    """One listed file, from untrusted hands; raises RemoteUnavailable if it cannot be read."""
    try:
        path, lfs = str(item["path"]), item.get("lfs")
        sha256 = str(lfs["oid"]) if lfs else None
        return path, RemoteFile(path.rpartition("/")[2], int(item["size"]), sha256, None if lfs else str(item["oid"]))
    except (KeyError, TypeError, ValueError):
        raise RemoteUnavailable("bad-answer", "a listed file lacks its path, size or id") from None


def _content(entry: OutgoingEntry, file: str) -> str | dict[str, str]:
    if file == provenance.FILE_NAME:
        return {"text": entry.provenance.encode().decode()}
    return str(entry.directory / (file + PART_SUFFIX))


def _has_changed(entry: OutgoingEntry) -> bool:
    """Whether a pinned file is no longer what was taken. Blocking."""
    try:
        return any(
            FileDigest(*fsops.hash_file(entry.directory / (file + PART_SUFFIX))) != digest
            for file, digest in entry.provenance.files.items()
        )
    except OSError:
        return True


def _outcome(error: HubCallFailed) -> Exception:
    """What a failed call means. An ambiguous one is `unavailable`: the next try looks first at what is there."""
    if error.status in (409, 412):
        return _Conflict()
    if error.status == 429:
        return RemoteUnavailable("rate-limited", str(error), error.retry_after_s)
    if error.code == "RepoNotFound" or error.status == 404:
        return RemoteUnavailable("repo-not-found", str(error))
    if error.status == 401:
        return RemoteUnavailable("bad-token", str(error))
    if error.status == 403:
        return RemoteUnavailable("no-write-access", str(error))
    if error.status is not None:
        reason = "server-error" if error.status >= 500 else "refused-by-hub"
        return RemoteUnavailable(reason, str(error), error.retry_after_s)
    return RemoteUnavailable("unreachable", str(error))
