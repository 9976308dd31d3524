"""Files of a repo, each by the way that suits now; what the chunk store fails to bring comes by plain GET."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

from neffd.remotes.base import RemoteUnavailable
from neffd.remotes.hub.blobs import SMALL_BYTES
from neffd.remotes.hub.client import HubClient
from neffd.remotes.hub.files import IncomingFile
from neffd.remotes.hub.quotas import Quotas
from neffd.remotes.hub.transfer import Sink, Transfer
from neffd.remotes.hub.ways import Way, Ways
from neffd.remotes.hub.workers import HubWorker
from neffd.remotes.hub.xet_download import XetDownloads
from neffd.slots import Asker
from neffd.tasks import Tasks

log = logging.getLogger(__name__)

# As huggingface_hub reads its switches.
_YES = ("1", "ON", "YES", "TRUE")


class Downloads:
    """Brings files of one repo.

    Args:
        client: of the repo.
        quotas: what `client` is told of them.
        for_ranks, ahead: where hf_xet runs, see XetDownloads.
        in_thread: runs a blocking call on a worker thread.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        client: HubClient,
        quotas: Quotas,
        for_ranks: HubWorker,
        ahead: HubWorker,
        tasks: Tasks,
        in_thread: Callable[..., Awaitable[Any]],
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._in_thread = in_thread
        has_xet = os.environ.get("HF_HUB_DISABLE_XET", "").upper() not in _YES
        self._ways = Ways(quotas, clock, has_xet=has_xet)
        self._xet = XetDownloads(client.xet_access, for_ranks, ahead, tasks)
        self._waiting = 0
        self._was_scarce = False

    async def get(
        self, revision: str, path: str, sink: Sink, progress: Callable[[int], None], asker: Asker
    ) -> tuple[IncomingFile, list[bytes]]:
        """One file, and its last pieces, which are still to be written.

        Raises RemoteUnavailable, EntryRefused, OSError, and what `sink` raises.

        Args:
            sink: waits until the file may be written to.
            progress: called with each number of bytes that arrived, and with 0 where what it waits for moves.
            asker: whoever wants it.
        """
        self._waiting += 1
        try:
            is_scarce = self._ways.is_scarce(self._waiting)
            if is_scarce != self._was_scarce:
                self._was_scarce = is_scarce
                log.info("requests for files are %s", "scarce: large ones come by Xet" if is_scarce else "plenty again")
            if is_scarce:
                brought = await self._by_xet(revision, await sink(), progress, asker)
                if brought is not None:
                    return brought
            return await Transfer(self._client, revision, path, sink, progress, self._in_thread).run()
        finally:
            self._waiting -= 1

    def may_waste(self) -> bool:
        """Whether there are requests enough to ask for files that may not be there."""
        return not self._ways.is_scarce(self._waiting + 1)

    async def _by_xet(
        self, revision: str, incoming: IncomingFile, progress: Callable[[int], None], asker: Asker
    ) -> tuple[IncomingFile, list[bytes]] | None:
        """None where it cannot come that way."""
        if self._ways.choose(incoming.expected, self._waiting) is not Way.XET:
            return None
        try:
            has_come = await self._xet.get(revision, incoming, progress, asker)
        except RemoteUnavailable as error:
            log.info("the chunk store failed: %s", error)
            self._ways.failed()
            has_come = False
        if not has_come:
            log.info("the chunk store did not bring %s", incoming.expected.name)
            await self._in_thread(incoming.restart)
            return None
        if incoming.expected.size_bytes > SMALL_BYTES:
            return incoming, []
        return incoming, [await self._in_thread(incoming.take_back)]
