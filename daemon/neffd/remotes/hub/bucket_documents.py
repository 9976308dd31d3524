"""Documents in a bucket: listed by prefix, read as one batch, written after the entries that they speak of."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from neffd.remotes.base import (
    NOT_TRIED,
    Document,
    EntryFailed,
    PublishResult,
    RemoteUnavailable,
    is_document_path,
)
from neffd.remotes.hub.bucket_publish import Call
from neffd.store import fsops

_XET_HASH = re.compile(r"[0-9a-f]{64}")
_NOT_TRIED = EntryFailed(NOT_TRIED, permanent=False)


class BucketDocuments:
    """Args:
    reader, writer: the processes that list and download, and that upload.
    scratch: a folder for what was downloaded.
    """

    def __init__(self, reader: Call, writer: Call, scratch: Path) -> None:
        self._reader = reader
        self._writer = writer
        self._scratch = scratch

    async def listed(self, folder: str) -> list[Document]:
        """See `neffd.remotes.base.Remote.documents`."""
        found = await self._reader("bucket-documents", folder=folder)
        return [
            Document(path, int(size_bytes), xet_hash)
            for path, size_bytes, xet_hash in found["files"]
            if path.startswith(f"{folder}/") and is_document_path(path) and _XET_HASH.fullmatch(xet_hash)
        ]

    async def read(self, documents: Sequence[Document], max_bytes: int) -> list[bytes | None]:
        """See `neffd.remotes.base.Remote.read_documents`."""
        wanted = {each.path: each for each in documents if 0 < each.size_bytes <= max_bytes}
        if not wanted:
            return [None] * len(documents)
        with tempfile.TemporaryDirectory(dir=await self._folder()) as folder:
            targets = {path: Path(folder) / str(number) for number, path in enumerate(wanted)}
            files = [[path, each.size_bytes, each.version, str(targets[path])] for path, each in wanted.items()]
            await self._reader("bucket-download", files=files)
            contents = await asyncio.to_thread(lambda: {path: _read(targets[path], max_bytes) for path in wanted})
        return [contents.get(document.path) for document in documents]

    async def put(
        self, documents: Mapping[str, bytes], entries: Sequence[PublishResult | EntryFailed]
    ) -> list[PublishResult | EntryFailed]:
        """One outcome for each document, given what became of the entries. Never raises because of a document."""
        if any(isinstance(outcome, EntryFailed) for outcome in entries):
            return [_NOT_TRIED] * len(documents)
        sound = {path: content for path, content in documents.items() if is_document_path(path)}
        try:
            outcomes = await self._write(sound) if sound else {}
        except RemoteUnavailable as error:
            if not entries:
                raise
            return [EntryFailed(error.reason, permanent=False)] * len(documents)
        return [outcomes.get(path, _NOT_TRIED) for path in documents]

    async def _write(self, documents: Mapping[str, bytes]) -> dict[str, PublishResult | EntryFailed]:
        found = await self._writer("bucket-look", paths=list(documents))
        present = {path for path, _, _ in found["files"]}
        new = [[path, {"text": content.decode()}] for path, content in documents.items() if path not in present]
        failed = (await self._writer("bucket-write", first=new, delete=[], last=[]))["failed"] if new else []
        stored = dict.fromkeys(documents, PublishResult.STORED)
        there = dict.fromkeys(present & documents.keys(), PublishResult.ALREADY_THERE)
        return stored | there | dict.fromkeys(failed, EntryFailed("refused-by-hub"))

    async def _folder(self) -> Path:
        await asyncio.to_thread(self._scratch.mkdir, parents=True, exist_ok=True)
        return self._scratch


def _read(path: Path, max_bytes: int) -> bytes | None:
    try:
        return fsops.read_small(path, max_bytes)
    except OSError:
        return None
