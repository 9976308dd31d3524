"""Files from the Hub's chunk store, by hf_xet in worker processes: those asked for together as one batch."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from neffd.remotes.base import RemoteUnavailable
from neffd.remotes.hub.client import XetAccess
from neffd.remotes.hub.files import IncomingFile
from neffd.remotes.hub.together import Together
from neffd.remotes.hub.workers import HubCallFailed, HubWorker
from neffd.slots import Asker
from neffd.tasks import Tasks

# What is prefetched comes in smaller batches: a rank may come to wait for one of the next.
_FILES_PER_BATCH, _FILES_AHEAD = 256, 32
# A permission that ends sooner is asked for anew: it cannot be renewed in the middle of a batch.
_SPARE_S = 300.0


@dataclass(frozen=True)
class _Wanted:
    """One file on its way."""

    revision: str
    incoming: IncomingFile
    progress: Callable[[int], None]
    asker: Asker


# Whether it came.
_Batches = Together[_Wanted, bool]


class XetDownloads:
    """Downloads of one repo.

    Args:
        ask_access: one token request: revision to a permission.
        for_ranks, ahead: where hf_xet runs, for what a rank waits for and for the rest: calls of one process wait for
            each other. Killed when nothing arrives for long.
        unix_clock: seconds.
    """

    def __init__(
        self,
        ask_access: Callable[[str], Awaitable[XetAccess]],
        for_ranks: HubWorker,
        ahead: HubWorker,
        tasks: Tasks,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self._ask_access = ask_access
        self._unix_clock = unix_clock
        self._for_ranks: _Batches = Together(
            lambda batch: self._bring(for_ranks, self._for_ranks, batch), tasks, _FILES_PER_BATCH
        )
        self._ahead: _Batches = Together(
            lambda batch: self._bring(ahead, self._ahead, batch),
            tasks,
            _FILES_AHEAD,
            lambda one: not one.asker.is_urgent,
        )
        self._access: XetAccess | None = None

    async def get(self, revision: str, incoming: IncomingFile, progress: Callable[[int], None], asker: Asker) -> bool:
        """Bring one file, which must have a Xet hash; what came is not checked yet.

        Returns False where the chunk store does not bring just this one. Raises RemoteUnavailable.
        """
        batches = self._for_ranks if asker.is_urgent else self._ahead
        has_come = await batches.ask(_Wanted(revision, incoming, progress, asker))
        if has_come:
            incoming.adopt()
        return has_come

    async def _bring(self, worker: HubWorker, batches: _Batches, batch: Sequence[_Wanted]) -> Sequence[bool]:
        # A permission is the repo's, whatever revision it was asked at.
        access = await self._permission(batch[0].revision)
        files = [
            [one.incoming.expected.xet_hash, one.incoming.expected.size_bytes, str(one.incoming.path)] for one in batch
        ]

        def moved(grown: Sequence[tuple[int, int]]) -> None:
            for index, count in grown:
                batch[index].progress(count)
            of_these = {id(batch[index]) for index, _ in grown}
            for other in batches.open:  # what waits for its block, or for its batch, has not stalled
                if id(other) not in of_these:
                    other.progress(0)

        fields = {"token": access.token, "store": access.url, "expires_unix_s": access.expires_unix_s}
        try:
            missing = (await worker.call("xet-download", on_progress=moved, files=files, **fields))["missing"]
        except HubCallFailed as error:
            if len(batch) == 1 and error.status == 404:  # the store answers, and lacks it
                return [False]
            self._access = None  # perhaps it was the token
            raise RemoteUnavailable("transfer-failed", str(error)) from error
        return [index not in missing for index in range(len(batch))]

    async def _permission(self, revision: str) -> XetAccess:
        if self._access is None or self._access.expires_unix_s - self._unix_clock() < _SPARE_S:
            self._access = await self._ask_access(revision)
        return self._access
