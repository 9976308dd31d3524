"""A model repo on the Hub as a remote; its tree is the cache directory's, as optimum-neuron keeps it.

All files of an entry are read at one commit. Entries are published by commits that name their parent, so that two hosts
can never mix theirs; whatever became of a commit whose answer was lost, the next look at the repo tells.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from neff import keys
from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.remotes import provenance
from neffd.remotes.base import (
    NO_DOCUMENTS,
    NOT_TRIED,
    Access,
    Document,
    EntryFailed,
    Fetched,
    OutgoingEntry,
    PublishResult,
    RemoteEntry,
    RemoteFile,
    RemoteUnavailable,
    Watcher,
)
from neffd.remotes.hub.arrivals import Arrivals
from neffd.remotes.hub.budget import CommitBudget
from neffd.remotes.hub.client import CONNECT_S, MAX_PATHS_PER_REQUEST, READ_S, HubClient, NotThere
from neffd.remotes.hub.commits import CONFLICT_PAUSE_S, Commits
from neffd.remotes.hub.documents import Documents
from neffd.remotes.hub.downloads import Downloads
from neffd.remotes.hub.failures import judge
from neffd.remotes.hub.files import flaw
from neffd.remotes.hub.fill import Fill
from neffd.remotes.hub.lookups import Lookups
from neffd.remotes.hub.plan import CommitPlan, describe_commit
from neffd.remotes.hub.quotas import Quotas
from neffd.remotes.hub.statements import Statements
from neffd.remotes.hub.tokens import TokenSource
from neffd.remotes.hub.unready import Unready
from neffd.remotes.hub.workers import IDLE_S, STALL_S, HubCallFailed, HubWorker
from neffd.store.root import PART_SUFFIX
from neffd.tasks import Tasks
from neffd.threads import whole_pool

log = logging.getLogger(__name__)
T = TypeVar("T")

_THREADS = 16
_CLOSE_S = 1.0


class HubRepoRemote:
    """See `neffd.remotes.base.Remote`.

    Args:
        endpoint: base URL of the Hub.
        repo_id: `org/name` of a model repo.
        home: folder for the worker process's own caches.
        connect_s, read_s, tls: of our own requests, see HubClient.
        stall_s, idle_s: of the worker process, see HubWorker.
        conflict_pause_s: about how long to wait after the first lost race for a commit; doubled after each further one.
    """

    def __init__(
        self,
        name: str,
        endpoint: str,
        repo_id: str,
        tokens: TokenSource,
        home: Path,
        clock: Callable[[], float] = time.monotonic,
        *,
        connect_s: float = CONNECT_S,
        read_s: float = READ_S,
        stall_s: float = STALL_S,
        idle_s: float = IDLE_S,
        conflict_pause_s: float = CONFLICT_PAUSE_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name = name
        self._repo_id = repo_id
        self._tokens = tokens
        quotas = Quotas(clock)
        self._client = HubClient(endpoint, repo_id, tokens, connect_s=connect_s, read_s=read_s, tls=tls, quotas=quotas)
        self._worker = HubWorker(home, endpoint, stall_s=stall_s, idle_s=idle_s, is_patient=True)
        # Others, since calls of one process wait for each other: a fetch must not wait for an upload, nor a rank for
        # what is prefetched.
        self._downloader, self._prefetcher = (
            HubWorker(home, endpoint, stall_s=min(stall_s, read_s), idle_s=idle_s) for _ in range(2)
        )
        self._fill = Fill(repo_id)
        self._commits = Commits(
            self._move_head, self._look_up, self._commit, CommitBudget(clock), self._fill, conflict_pause_s
        )
        self._tasks = Tasks()
        self._lookups = Lookups(self._look_up, self._tasks)
        self._downloads = Downloads(
            self._client, quotas, self._downloader, self._prefetcher, self._tasks, self._in_thread, clock
        )
        statements = Statements(self._client, self._has_leisure, self._tasks)
        self._arrivals = Arrivals(
            self._describe, self._downloads.get, self._downloads.may_waste, self._tasks, self._in_thread, statements
        )
        self._head = ""
        # Answers may overtake each other: which question it was that told of the head, and how many there were.
        self._head_told = self._head_asked = 0
        self._documents = Documents(self._client, self._move_head, lambda: self._head)
        self._threads = whole_pool(_THREADS, f"neffd-remote-{name}")
        # Told by answers that were about presence, at a commit; used once, since who looks again wants to hear it anew.
        self._described: dict[tuple[ModuleName, str], RemoteEntry] = {}
        self._unready = Unready()

    async def access(self) -> Access:
        try:
            found = await self._worker.call("access", token=self._tokens.get(), repo_id=self._repo_id)
        except HubCallFailed as error:
            verdict = judge(error, 1)
            raise RemoteUnavailable(verdict.reason, verdict.detail, verdict.retry_after_s) from error
        return Access(found["can_write"], found["public"], found["reason"])

    async def version(self, namespace: str) -> str:
        return await self._move_head()

    async def keys(self, namespace: str) -> AsyncIterator[list[str]]:
        count, revision = 0, self._head or await self._move_head()
        async for folders in self._folders(namespace, revision):
            page = list(filter(keys.is_module_key, folders))
            count += len(page)
            yield [key for key in page if not self._unready.has(ModuleName(namespace, key), revision)]
        self._fill.listed(namespace, count)

    async def present(self, namespace: str, wanted: Sequence[str]) -> frozenset[str]:
        revision, mark = self._head or await self._move_head(), keys.ready_mark(namespace)
        # What is there will be fetched: where one request holds it, all of the entry is asked for.
        is_whole = len(wanted) * len(_LOOKED_FOR) <= MAX_PATHS_PER_REQUEST
        files = _LOOKED_FOR if is_whole else (xla.NEFF, *{mark} - {xla.NEFF})
        found = await self._lookups.files([f"{namespace}/{key}/{file}" for key in wanted for file in files], revision)
        names = [ModuleName(namespace, key) for key in wanted]
        ready = [entry for name in names if (entry := self._entry_of(name, found, revision)) is not None]
        if is_whole:
            still = {known: entry for known, entry in self._described.items() if known[1] == revision}
            described = still | {(entry.name, revision): entry for entry in ready}
            self._described = dict(list(described.items())[-_MOST_DESCRIBED:])
        return frozenset(entry.name.key for entry in ready)

    async def namespaces(self) -> list[str]:
        head = await self._move_head()
        return sorted([name async for page in self._folders("", head) for name in page if keys.is_namespace(name)])

    async def describe(self, name: ModuleName) -> RemoteEntry | None:
        return await self._describe(name, self._head or await self._move_head())

    async def fetch(self, name: ModuleName, directory: Path, watcher: Watcher) -> Fetched | None:
        return await self._arrivals.fetch(name, self._head or await self._move_head(), directory, watcher)

    async def publish(
        self, entries: Sequence[OutgoingEntry], documents: Mapping[str, bytes] = NO_DOCUMENTS
    ) -> list[PublishResult | EntryFailed]:
        # A copy that was written over goes with the one that was taken after it, if that is here.
        flaws = await self._in_thread(lambda: [flaw(entry) for entry in entries])
        sound = [entry for entry, found in zip(entries, flaws, strict=True) if found is None]
        missing = {entry.name for entry in entries}.difference(entry.name for entry in sound)
        # Which entries a document speaks of is not known here: with one of them missing, none goes.
        outcomes = await self._commits.bring(sound, NO_DOCUMENTS if missing else documents)
        untold = EntryFailed(NOT_TRIED, permanent=False)
        of_entries = [outcomes.get(entry.name) or found or untold for entry, found in zip(entries, flaws, strict=True)]
        return of_entries + [outcomes.get(path, EntryFailed(NOT_TRIED, permanent=False)) for path in documents]

    async def documents(self, folder: str) -> list[Document]:
        return await self._documents.listed(folder)

    async def read_documents(self, documents: Sequence[Document], max_bytes: int) -> list[bytes | None]:
        return await self._documents.read(documents, max_bytes)

    async def published_with(self, namespace: str, wanted: Sequence[str]) -> Mapping[str, str]:
        mark = keys.ready_mark(namespace)
        paths = [f"{namespace}/{key}/{mark}" for key in wanted]
        try:
            found = await self._client.paths_info(paths, self._head or await self._move_head(), expand=True)
        except NotThere:
            return {}
        commits = ((str(item.get("path")), item.get("lastCommit")) for item in found)
        return {
            path.split("/")[1]: str(commit.get("id"))
            for path, commit in commits
            if path.count("/") == 2 and isinstance(commit, dict) and commit.get("id")
        }

    async def prepare(self) -> None:
        await self._client.load()

    async def close(self) -> None:
        await asyncio.gather(self._worker.close(), self._downloader.close(), self._prefetcher.close())
        await self._tasks.stop(_CLOSE_S)
        await self._client.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _folders(self, path: str, revision: str) -> AsyncIterator[list[str]]:
        """Names of the folders in `path`, page by page; none if there is no such path."""
        try:
            async for page in self._client.tree(path, revision):
                yield [item["path"].rpartition("/")[2] for item in page if item.get("type") == "directory"]
        except NotThere:
            return
        except (KeyError, AttributeError):
            raise RemoteUnavailable("bad-answer", "a listing's item has no path") from None

    async def _describe(self, name: ModuleName, revision: str) -> RemoteEntry | None:
        known = self._described.pop((name, revision), None)
        if known is not None:
            return known
        paths = [f"{name}/{file}" for file in _LOOKED_FOR]
        return self._entry_of(name, await self._lookups.files(paths, revision), revision)

    def _entry_of(self, name: ModuleName, found: Mapping[str, RemoteFile], revision: str) -> RemoteEntry | None:
        """What was told of one entry; one that is not ready is noted."""
        entry = _entry(name, found, revision)
        if entry is None and revision == self._head:
            self._unready.note(name, revision)
        return entry

    async def _look_up(self, paths: list[str], revision: str) -> dict[str, RemoteFile]:
        try:
            found = await self._client.paths_info(paths, revision)
        except NotThere:  # it is silent about what is missing
            raise RemoteUnavailable("bad-answer", "paths-info does not know the path") from None
        asked = set(paths)
        files = (_remote_file(item) for item in found if item.get("type") == "file")
        return {path: file for path, file in files if path in asked}

    def _has_leisure(self) -> bool:
        """Whether there are time and requests for what nobody waits for."""
        return self._arrivals.is_calm and self._downloads.may_waste()

    async def _move_head(self) -> str:
        self._head_asked += 1
        asked = self._head_asked
        head = await self._client.head()
        if asked > self._head_told:
            self._head, self._head_told = head, asked
        return self._head

    async def _commit(self, plan: CommitPlan, parent: str) -> None:
        message, description = describe_commit(plan.brings, len(plan.documents))
        result = await self._worker.call(
            "commit",
            token=self._tokens.get(),
            repo_id=self._repo_id,
            parent=parent,
            message=message,
            description=description,
            add=[
                *([path, _content(entry, file)] for path, (entry, file) in plan.add.items()),
                *([path, {"text": content.decode()}] for path, content in plan.documents.items()),
            ],
            delete=plan.delete,
        )
        self._head, self._head_told = str(result["commit"]), self._head_asked  # which no question before knew of
        log.info("commit %s to %s: %s", self._head[:8], self._repo_id, message)

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)


_XET_HASH = re.compile(r"[0-9a-f]{64}")
_MOST_DESCRIBED = 1_000
# What a rank waits for first.
_WANTED = (xla.NEFF, *sorted(xla.SHARED - {xla.NEFF}))
_LOOKED_FOR = (*_WANTED, provenance.FILE_NAME)


def _entry(name: ModuleName, found: Mapping[str, RemoteFile], revision: str) -> RemoteEntry | None:
    """What is told of one entry, if it is ready."""
    files = [found[path] for file in _WANTED if (path := f"{name}/{file}") in found]
    sizes_bytes = {file.name: file.size_bytes for file in files}
    is_ready = keys.ready_mark(name.namespace) in sizes_bytes and sizes_bytes.get(xla.NEFF, 0) > 0
    has_statement = f"{name}/{provenance.FILE_NAME}" in found
    return RemoteEntry(name, tuple(files), revision, has_statement=has_statement) if is_ready else None


def _remote_file(item: dict[str, Any]) -> tuple[str, RemoteFile]:
    """One listed file, from untrusted hands; raises RemoteUnavailable if it cannot be read."""
    try:
        path, lfs, size_bytes = str(item["path"]), item.get("lfs"), int(item["size"])
        if size_bytes < 0:
            raise ValueError("a negative size")
        sha256 = str(lfs["oid"]) if lfs else None
        git_sha1, xet_hash = None if lfs else str(item["oid"]), item.get("xetHash")
        is_hash = isinstance(xet_hash, str) and _XET_HASH.fullmatch(xet_hash)
        return path, RemoteFile(path.rpartition("/")[2], size_bytes, sha256, git_sha1, xet_hash if is_hash else None)
    except (KeyError, TypeError, ValueError, OverflowError):  # the last of a number without end
        raise RemoteUnavailable("bad-answer", "a listed file lacks its path, size or id") from None


def _content(entry: OutgoingEntry, file: str) -> str | dict[str, str]:
    if file == provenance.FILE_NAME:
        return {"text": entry.provenance.encode().decode()}
    return str(entry.directory / (file + PART_SUFFIX))
