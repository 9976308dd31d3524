"""Files from the Hub's chunk store, by hf_xet in the worker process: those asked for together as one batch."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from neffd.remotes.base import RemoteUnavailable
from neffd.remotes.hub.client import XetAccess
from neffd.remotes.hub.files import IncomingFile
from neffd.remotes.hub.together import Together
from neffd.remotes.hub.workers import HubCallFailed, HubWorker
from neffd.tasks import Tasks

_FILES_PER_BATCH = 256
# A permission that ends sooner is asked for anew: it cannot be renewed in the middle of a batch.
_SPARE_S = 300.0


@dataclass(frozen=True)
class _Wanted:
    """One file on its way."""

    revision: str
    incoming: IncomingFile
    progress: Callable[[int], None]


class XetDownloads:
    """Downloads of one repo.

    Args:
        ask_access: one token request: revision to a permission.
        worker: where hf_xet runs; killed when nothing arrives for long.
        unix_clock: seconds.
    """

    def __init__(
        self,
        ask_access: Callable[[str], Awaitable[XetAccess]],
        worker: HubWorker,
        tasks: Tasks,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self._ask_access = ask_access
        self._worker = worker
        self._unix_clock = unix_clock
        self._batches = Together(self._bring, tasks, _FILES_PER_BATCH)
        self._access: XetAccess | None = None

    async def get(self, revision: str, incoming: IncomingFile, progress: Callable[[int], None]) -> None:
        """Bring one file, which must have a Xet hash; what came is not checked yet. Raises RemoteUnavailable."""
        await self._batches.ask(_Wanted(revision, incoming, progress))
        incoming.adopt()

    async def _bring(self, batch: Sequence[_Wanted]) -> Sequence[None]:
        # A permission is the repo's, whatever revision it was asked at.
        access = await self._permission(batch[0].revision)
        files = [
            [one.incoming.expected.xet_hash, one.incoming.expected.size_bytes, str(one.incoming.path)] for one in batch
        ]

        def moved(grown: Sequence[tuple[int, int]]) -> None:
            for index, count in grown:
                batch[index].progress(count)

        fields = {"token": access.token, "store": access.url, "expires_unix_s": access.expires_unix_s}
        try:
            await self._worker.call("xet-download", on_progress=moved, files=files, **fields)
        except HubCallFailed as error:
            self._access = None  # perhaps it was the token
            raise RemoteUnavailable("transfer-failed", str(error)) from error
        return [None] * len(batch)

    async def _permission(self, revision: str) -> XetAccess:
        if self._access is None or self._access.expires_unix_s - self._unix_clock() < _SPARE_S:
            self._access = await self._ask_access(revision)
        return self._access
