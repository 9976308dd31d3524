"""Reading the documents of a repo: one listing for as long as the branch stands still, several files at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from neffd.remotes.base import MAX_DOCUMENTS, Document, is_document_path
from neffd.remotes.hub.client import HubClient, NotThere

_PARALLEL = 16
# Of what is no document, so much is passed over before the listing ends.
_MAX_SEEN = 5 * MAX_DOCUMENTS
_LISTINGS_KEPT = 16


class Documents:
    """Args:
    head: asks for the commit that `main` points to.
    last_head: what the last answer to that was; empty before the first.
    """

    def __init__(
        self, client: HubClient, head: Callable[[], Awaitable[str]], last_head: Callable[[], str] = str
    ) -> None:
        self._client = client
        self._head = head
        self._last_head = last_head
        self._revision = ""
        self._listed: dict[str, list[Document]] = {}

    async def listed(self, folder: str) -> list[Document]:
        """See `neffd.remotes.base.Remote.documents`."""
        revision, found = await self._look(folder)
        if revision != self._revision or len(self._listed) > _LISTINGS_KEPT:
            self._revision, self._listed = revision, {}
        if folder not in self._listed:
            found = await self._list(folder, revision) if found is None else found
            if revision != self._revision:  # it moved meanwhile; as true as any answer
                return found
            self._listed[folder] = found
        return list(self._listed[folder])

    async def read(self, documents: Sequence[Document], max_bytes: int) -> list[bytes | None]:
        """See `neffd.remotes.base.Remote.read_documents`."""
        revision = self._revision or await self._head()
        free = asyncio.Semaphore(_PARALLEL)

        async def read(document: Document) -> bytes | None:
            if document.size_bytes > max_bytes or not is_document_path(document.path):
                return None
            async with free:
                return await read_small(self._client, revision, document.path, max_bytes)

        found = await asyncio.gather(*(read(document) for document in documents), return_exceptions=True)
        errors = [error for error in found if isinstance(error, BaseException)]
        if errors and not any(isinstance(content, bytes) for content in found):
            raise errors[0]
        return [content if isinstance(content, bytes) else None for content in found]

    async def _look(self, folder: str) -> tuple[str, list[Document] | None]:
        """Where the branch is, and the listing there if it had not moved: a run waits for both, so both are asked."""
        before = self._last_head()
        if not before or (before == self._revision and folder in self._listed):
            return await self._head(), None
        revision, found = await asyncio.gather(self._head(), self._list(folder, before), return_exceptions=True)
        if isinstance(revision, BaseException):
            raise revision
        return revision, found if revision == before and not isinstance(found, BaseException) else None

    async def _list(self, folder: str, revision: str) -> list[Document]:
        found: list[Document] = []
        seen = 0
        try:
            async for page in self._client.tree(folder, revision, recursive=True):
                seen += len(page)
                found += [document for item in page if (document := _document(item, folder)) is not None]
                if len(found) >= MAX_DOCUMENTS or seen >= _MAX_SEEN:
                    break
        except NotThere:
            pass
        return found[:MAX_DOCUMENTS]


async def read_small(client: HubClient, revision: str, path: str, max_bytes: int) -> bytes | None:
    """The content of one file; None if it is not there or longer than that. Raises RemoteUnavailable."""
    content = bytearray()
    try:
        async with client.open_file(revision, path) as reader:
            async for piece in reader.iter_any():
                content += piece
                if len(content) > max_bytes:
                    return None
    except NotThere:
        return None
    return bytes(content)


def _document(item: dict[str, Any], folder: str) -> Document | None:
    """One listed file, from untrusted hands; None for what is no document."""
    path, size_bytes = item.get("path"), item.get("size")
    if item.get("type") != "file" or not isinstance(path, str) or not isinstance(size_bytes, int):
        return None
    is_below = path.startswith(f"{folder}/") and is_document_path(path)
    return Document(path, size_bytes, str(item.get("oid"))) if is_below else None
