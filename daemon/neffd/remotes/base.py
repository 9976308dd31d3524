"""The interface of a remote, and the outcomes it may have.

- found: a `RemoteEntry`;
- missing: None, which only the remote itself may say, and which may be remembered;
- unavailable: `RemoteUnavailable`, nobody knows, ask again later.

The catalog and the fetcher build on these three alone.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from neff import keys
from neff.keys import ModuleName
from neffd.remotes.provenance import FileDigest, Provenance

# The reason of a remote without transactions whose copy of an entry did not fit together: worth one more look.
BEING_REWRITTEN = "being-rewritten"
# The reason of one whose history was rewritten, or that was made anew: what it holds is told at another revision.
REVISION_GONE = "revision-gone"
# The reason of a remote that answers, and needs longer to say what it holds than anybody can wait.
STILL_LISTING = "still-listing"
# Of a document that was not even tried: its entries are not all there, or nothing was written that it could ride on.
NOT_TRIED = "not-tried"
# Where documents are, in every namespace; no module has such a name.
RUNS_FOLDER = "0_RUNS"
# So many are listed at most, below one folder.
MAX_DOCUMENTS = 2_000
# Of writes that failed by what was written, perhaps: the remote answered, or a process of ours ended over it.
_PERHAPS_THE_CONTENT = {"bad-answer", "refused-by-hub", "server-error", "stalled", "transfer-failed", "upload-failed"}
_PERHAPS_THE_CONTENT |= {"worker-died", "worker-failed"}
_MAX_PATH = 500
_PART_OF_PATH = re.compile(r"-|[0-9A-Za-z_][0-9A-Za-z._-]{0,127}")


class RemoteUnavailable(Exception):
    """The remote could not answer; says nothing about what it holds.

    Args:
        reason: short kebab-case code for status and metrics, such as `unreachable` or `rate-limited`.
        detail: one line for a log.
        retry_after_s: how long the remote asked us to wait, if it did.
    """

    def __init__(self, reason: str, detail: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.retry_after_s = retry_after_s

    @property
    def may_be_the_content(self) -> bool:
        """Whether what the remote was given may be to blame, rather than the moment."""
        return self.reason in _PERHAPS_THE_CONTENT


class EntryRefused(Exception):
    """The remote's copy of an entry must not be used.

    Args:
        reason: short kebab-case code, such as `digest-mismatch`.
        detail: one line for a log.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class SpoiltOnTheWay(EntryRefused):
    """What arrived is not what the remote states: its copy may be sound, and another transfer bring it."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of an entry as the remote lists it, with the digest that the remote itself states, if any.

    Large files on the Hub have a `sha256`, small ones a git blob id (`git_sha1`). `xet_hash` names the content in the
    Hub's chunk store, where it is kept there. Where no digest is stated, `stamp` changes when the file is written over.
    """

    name: str
    size_bytes: int
    sha256: str | None = None
    git_sha1: str | None = None
    xet_hash: str | None = None
    stamp: str | None = None


@dataclass(frozen=True)
class RemoteEntry:
    """A ready entry on a remote. `revision` is what all its files must come from (a commit), or empty.

    `has_statement` tells of one whose provenance is there, but was not read.
    """

    name: ModuleName
    files: tuple[RemoteFile, ...]
    revision: str = ""
    provenance: Provenance | None = None
    has_statement: bool = False

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True)
class Fetched:
    """An entry that was brought: as the remote describes it, and what was written of each file.

    `stated_s` is what it says that compiling it took, where that came along.
    """

    entry: RemoteEntry
    digests: Mapping[str, FileDigest]
    stated_s: float | None = None

    @property
    def compile_s(self) -> float | None:
        """Seconds that compiling it took, as the remote's copy says."""
        made = self.entry.provenance
        return made.compile_s if self.stated_s is None and made is not None else self.stated_s


class Watcher(Protocol):
    """Whoever waits for an entry that a remote brings."""

    @property
    def is_urgent(self) -> bool:
        """Whether a trainer waits for it; may change at any time."""

    def nearby(self, file: str) -> Path | None:
        """Where else on this host the entry lies, if it does: perhaps with the same content."""

    async def turn(self, entry: RemoteEntry) -> None:
        """To be told once what the entry is; returns when there is room for it.

        Before that a remote may begin with a little of it, so that what is fetched alone comes at once.
        """

    def moved(self, count: int) -> None:
        """`count` bytes arrived. From any thread."""

    def alive(self) -> None:
        """Something moves that the entry waits for, though no byte of it arrived. From any thread."""


@dataclass(frozen=True)
class OutgoingEntry:
    """An entry to share: `directory` holds the pinned files that `provenance` describes."""

    name: ModuleName
    directory: Path
    provenance: Provenance


@dataclass(frozen=True)
class Document:
    """A small file beside the modules of a namespace. `version` changes when it is written over."""

    path: str
    size_bytes: int
    version: str


def is_document_path(path: str) -> bool:
    """Whether documents may be read and written there: below the one folder of a namespace, and nowhere else."""
    namespace, _, rest = path.partition("/")
    folder, *parts = rest.split("/")
    is_inside = keys.is_namespace(namespace) and folder == RUNS_FOLDER and len(path) <= _MAX_PATH
    return is_inside and bool(parts) and all(_PART_OF_PATH.fullmatch(part) for part in parts)


class PublishResult(str, Enum):
    """What became of one outgoing entry; every one of these closes its journal row."""

    STORED = "stored"
    ALREADY_THERE = "already-there"


NO_DOCUMENTS: Mapping[str, bytes] = MappingProxyType({})


@dataclass(frozen=True)
class EntryFailed:
    """This one entry was not published, whatever became of the others of its batch.

    A `permanent` failure parks the entry; any other is tried again later. Of a document, a permanent one is a refusal,
    and several of those are the end of it.
    """

    reason: str
    permanent: bool = True


@dataclass(frozen=True)
class Access:
    """What we may do on a remote. `public` is None while unknown; `reason` says why writing is not possible."""

    can_write: bool
    public: bool | None
    reason: str = ""


class Remote(Protocol):
    """A place where entries are shared. Every method may raise RemoteUnavailable."""

    @property
    def name(self) -> str:
        """The configured name, unique on this host."""

    async def access(self) -> Access:
        """Find out, without harm, what we may do."""

    async def version(self, namespace: str) -> str:
        """A text that changes whenever the namespace's keys may have changed; cheap."""

    def keys(self, namespace: str) -> AsyncIterator[list[str]]:
        """Module keys of the entries in `namespace`, page by page, as of the last `version` or later.

        There may be some among them that are not ready, but none of which the remote has said so at this version.
        """

    async def present(self, namespace: str, keys: Sequence[str]) -> frozenset[str]:
        """Which of `keys` are ready entries, as of the last `version` or later."""

    async def namespaces(self) -> list[str]:
        """The compiler versions that the remote holds entries of."""

    async def describe(self, name: ModuleName) -> RemoteEntry | None:
        """What the remote states of an entry now, without bringing it; None if it says there is no ready entry."""

    async def fetch(self, name: ModuleName, directory: Path, watcher: Watcher) -> Fetched | None:
        """Bring an entry, all of one revision; None if the remote says there is no ready entry.

        Its files are written into `directory`, each under its name with PART_SUFFIX, synced to disk. Whatever comes of
        it, the directory and what is left there are the caller's to remove. Raises EntryRefused if the copy is not
        what the remote states.
        """

    async def publish(
        self, entries: Sequence[OutgoingEntry], documents: Mapping[str, bytes] = NO_DOCUMENTS
    ) -> list[PublishResult | EntryFailed]:
        """Share `entries` as one batch; returns one outcome for each, in order, then one for each of `documents`.

        An entry that is there already with the same NEFF gains the files it lacks (`stored`); with another NEFF it
        stays as it is (`already-there`). When this raises, any of the entries may or may not have arrived.

        A document, path to content, is written together with the last of the entries or after them: never before all
        of them are there, never over another file, and never to the harm of an entry. With `entries` it costs no commit
        of its own: where none is made for them, it is not tried (NOT_TRIED).
        """

    async def documents(self, folder: str) -> list[Document]:
        """The files below `folder`, at most MAX_DOCUMENTS; none if there is no such folder."""

    async def read_documents(self, documents: Sequence[Document], max_bytes: int) -> list[bytes | None]:
        """Contents, in order; None for what is not there any more or is longer than `max_bytes`."""

    async def published_with(self, namespace: str, keys: Sequence[str]) -> Mapping[str, str]:
        """For entries, something that those share which were published together; none where that is not known."""

    async def prepare(self) -> None:
        """Load what questions need, once: our own start is no part of the time that the remote has for an answer."""

    async def close(self) -> None:
        """Let go of connections and threads."""
