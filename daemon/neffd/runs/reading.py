"""Reading manifests back from remotes: few requests, bounded in number, bytes and time, from untrusted hands."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neffd.fetch.fetcher import Source
from neffd.metrics import Metrics
from neffd.remotes.base import MAX_DOCUMENTS, RUNS_FOLDER, Document, RemoteUnavailable
from neffd.runs import manifests
from neffd.runs.manifests import BadManifest, Manifest
from neffd.runs.shelf import Kept, Shelf
from neffd.tasks import Tasks

log = logging.getLogger(__name__)

# For one question to one remote.
MAX_MANIFESTS = 200
MAX_READ_BYTES = 8 << 20
MAX_MODULES = 50_000
# Whoever asks waits no longer; the reading goes on and serves the next.
PATIENCE_S = 2.0
_LIMIT_S = 60.0
_AT_ONCE = 16
# A listing of so lately is used again.
_FRESH_S = 0.5
# Longer than a look in vain is rested after the first time: a reading that took more than our patience has ended then.
_RECENT_S = 60.0
_PICTURES_KEPT = 64


@dataclass(frozen=True)
class Wanted:
    """The manifests of one run key, else those of runs of the same model. `ingredients` may be unknown, or empty."""

    namespace: str
    run_key: str
    ingredients: Mapping[str, Any] | None = None

    @property
    def folder(self) -> str:
        """Where to look: models of one type are listed together, since a copy under another name has the same key."""
        if not self.ingredients:
            return f"{self.namespace}/{RUNS_FOLDER}"
        return manifests.type_folder_of(self.namespace, self.ingredients)

    @property
    def model_folder(self) -> str | None:
        """Where runs of the same model are; None where no model is known."""
        if not self.ingredients or not self.ingredients.get("model"):
            return None
        return manifests.folder_of(self.namespace, self.ingredients)


@dataclass
class Picture:
    """What a remote has for one question, as far as it was read. `listed_s` is monotonic; None: it never was."""

    listed_s: float | None = None
    same_key: list[Document] = field(default_factory=list)
    nearest: list[Document] = field(default_factory=list)


@dataclass(frozen=True)
class Looked:
    """What is known of one remote; `is_certain` where it has been read to the end just now, `is_recent` lately."""

    same_key: tuple[Manifest, ...]
    nearest: tuple[Manifest, ...]
    is_certain: bool
    is_recent: bool


class Reader:
    """Args:
    clock: monotonic seconds.
    """

    def __init__(self, tasks: Tasks, metrics: Metrics, clock: Callable[[], float], shelf: Shelf | None = None) -> None:
        self._tasks = tasks
        self._metrics = metrics
        self._clock = clock
        self._shelf = shelf or Shelf(clock=clock)
        self._pictures: OrderedDict[tuple[str, str, str, str], Picture] = OrderedDict()
        self._running: dict[tuple[str, str, str, str], tuple[asyncio.Task[None], Picture]] = {}

    async def look(self, source: Source, wanted: Wanted) -> Looked:
        """What a remote has, as far as it was read after PATIENCE_S at most; whatever the remote does, it is told."""
        remote = source.remote.name
        key = (remote, wanted.namespace, wanted.run_key, wanted.model_folder or wanted.folder)
        _, picture = self._running.get(key) or (None, self._picture(key))
        is_fresh = picture.listed_s is not None and self._clock() - picture.listed_s < _FRESH_S
        is_certain = is_fresh and key not in self._running
        if not is_certain and source.catalog.trouble is None:
            is_certain = await self._wait(key, source, wanted, picture)
        same_key = self._on_shelf(remote, picture.same_key)
        is_recent = picture.listed_s is not None and self._clock() - picture.listed_s < _RECENT_S
        return Looked(same_key, () if same_key else self._on_shelf(remote, picture.nearest), is_certain, is_recent)

    def changed(self, remote: str) -> None:
        """What was seen of a remote is not all that it has any more."""
        for key, picture in self._pictures.items():
            if key[0] == remote:
                picture.listed_s = None

    def _picture(self, key: tuple[str, str, str, str]) -> Picture:
        picture = self._pictures.setdefault(key, Picture())
        self._pictures.move_to_end(key)
        if len(self._pictures) > _PICTURES_KEPT:
            self._pictures.popitem(last=False)
        return picture

    async def _wait(self, key: tuple[str, str, str, str], source: Source, wanted: Wanted, picture: Picture) -> bool:
        """Read, together with everybody who asks for the same meanwhile; whether that came to its end."""
        running, _ = self._running.get(key, (None, picture))
        if running is None:
            running = self._tasks.start(
                asyncio.wait_for(self._read(source, wanted, picture), _LIMIT_S),
                name=f"manifests-{source.remote.name}",
                watched=True,
            )
            self._running[key] = running, picture
            running.add_done_callback(lambda _: self._running.pop(key, None))
        await asyncio.wait({running}, timeout=PATIENCE_S)
        if not running.done() or running.cancelled():
            return False
        error = running.exception()
        if isinstance(error, (RemoteUnavailable, OSError, asyncio.TimeoutError)):
            reason = error.reason if isinstance(error, RemoteUnavailable) else "timeout"
            self._metrics.remote_failures.labels(source.remote.name, reason).inc()
            log.info("reading manifests of %s: %s", source.remote.name, error or reason)
        elif error is not None:  # of our own: it must not reach whoever only wanted to know more
            log.error("reading manifests of %s", source.remote.name, exc_info=error)
        return error is None

    async def _read(self, source: Source, wanted: Wanted, picture: Picture) -> None:
        began_s = self._clock()
        documents = await source.remote.documents(wanted.folder)
        if len(documents) >= MAX_DOCUMENTS and wanted.model_folder is not None:
            documents += await source.remote.documents(wanted.model_folder)
        same_key, nearest = self._sorted(source.remote.name, documents, wanted)
        picture.same_key = same_key
        await self._bring(source, same_key)
        if not self._on_shelf(source.remote.name, same_key):
            picture.nearest = nearest
            await self._bring(source, nearest)
        picture.listed_s = began_s

    def _sorted(
        self, remote: str, documents: Iterable[Document], wanted: Wanted
    ) -> tuple[list[Document], list[Document]]:
        """Those of the same key, and those of the same model, each as many as are worth reading."""
        same_key: list[Document] = []
        by_run: dict[str, list[Document]] = {}
        for document in {document.path: document for document in documents}.values():
            place = manifests.parse_path(document.path)
            if place is None:
                self._refuse(remote, document, "bad-path")
            elif document.size_bytes > manifests.MAX_BYTES:
                self._refuse(remote, document, "too-large")
            elif place.run_key == wanted.run_key:
                same_key.append(document)
            elif place.folder == wanted.model_folder:
                by_run.setdefault(place.run_key, []).append(document)
        # One of each run before a second of any.
        ranked = sorted((rank, document.path, document) for of in by_run.values() for rank, document in enumerate(of))
        return _affordable(same_key), _affordable([document for _, _, document in ranked])

    async def _bring(self, source: Source, documents: Sequence[Document]) -> None:
        """Read what is not on the shelf yet."""
        remote = source.remote.name
        missing = [document for document in documents if self._shelf.get(remote, document) is None]
        for start in range(0, len(missing), _AT_ONCE):
            part = missing[start : start + _AT_ONCE]
            contents = await source.remote.read_documents(part, manifests.MAX_BYTES)
            # In a thread: a large one takes some milliseconds.
            read = await asyncio.to_thread(lambda *parts: list(map(_decoded, *parts)), part, contents)
            for document, kept in zip(part, read, strict=True):
                if isinstance(kept, Manifest):
                    self._shelf.put(remote, document, kept)
                    self._metrics.manifests_read.labels(remote).inc()
                elif kept is not None:
                    self._refuse(remote, document, kept)

    def _refuse(self, remote: str, document: Document, reason: str) -> None:
        """Count it, once."""
        if self._shelf.get(remote, document) is None:
            self._shelf.put(remote, document, reason)
            self._metrics.manifests_refused.labels(remote, reason).inc()
            log.debug("%s of %s: %s", document.path, remote, reason)

    def _on_shelf(self, remote: str, documents: Iterable[Document]) -> tuple[Manifest, ...]:
        """Those that can be used, as many as hold MAX_MODULES together."""
        found: list[Manifest] = []
        modules = 0
        for document in documents:
            kept = self._shelf.get(remote, document)
            if isinstance(kept, Manifest):
                modules += len(kept.modules)
                if modules > MAX_MODULES:
                    break
                found.append(kept)
        return tuple(found)


def _affordable(documents: Sequence[Document]) -> list[Document]:
    chosen: list[Document] = []
    size_bytes = 0
    for document in documents[:MAX_MANIFESTS]:
        size_bytes += document.size_bytes
        if size_bytes > MAX_READ_BYTES:
            break
        chosen.append(document)
    return chosen


def _decoded(document: Document, content: bytes | None) -> Kept | None:
    """A manifest, or why it is none; None for what could not be read. Any thread."""
    if content is None:
        return None
    try:
        return manifests.decode(document.path, content)
    except BadManifest as error:
        return error.reason
