"""Documents of a bucket: what the Hub refuses, and what only failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neffd.remotes.base import EntryFailed, PublishResult, RemoteUnavailable
from neffd.remotes.hub.bucket_documents import BucketDocuments
from tests.harness import entries

STORED = PublishResult.STORED
GOOD, BAD = (f"{entries.NAMESPACE}/0_RUNS/llama/org/name/RUN_{number}.json" for number in range(2))


class Uploader:
    """The process that uploads; the Hub refuses BAD."""

    trouble: RemoteUnavailable | None = None

    async def __call__(self, op: str, **fields: Any) -> dict[str, Any]:
        if self.trouble is not None:
            raise self.trouble
        if op == "bucket-look":
            return {"files": []}
        return {"failed": [path for path, _ in fields["first"] if path == BAD]}


@pytest.mark.parametrize("of_entries", [[], [STORED]])
async def test_a_refusal_is_told_apart_from_trouble(
    tmp_path: Path, of_entries: list[PublishResult | EntryFailed]
) -> None:
    uploader = Uploader()
    documents = BucketDocuments(uploader, uploader, tmp_path)
    assert await documents.put({GOOD: b"", BAD: b""}, of_entries) == [STORED, EntryFailed("refused-by-hub")]
    uploader.trouble = RemoteUnavailable("server-error", retry_after_s=7)
    if of_entries:
        assert await documents.put({GOOD: b""}, of_entries) == [EntryFailed("server-error", permanent=False)]
    else:
        with pytest.raises(RemoteUnavailable, match="server-error"):
            await documents.put({GOOD: b""}, of_entries)
