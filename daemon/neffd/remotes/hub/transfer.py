"""One file by plain GETs: a large one whose transfer breaks goes on where it was, by a request for the rest.

Every try asks the Hub anew, at the same revision: where it redirects to expires. The hash goes on too, so wrong bytes
of any try are refused at the end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from neffd.remotes.base import REVISION_GONE, RemoteUnavailable
from neffd.remotes.hub.client import HubClient, NotThere, RangeRefused
from neffd.remotes.hub.files import IncomingFile

# Waits until the file may be written to.
Sink = Callable[[], Awaitable[IncomingFile]]
InThread = Callable[..., Awaitable[Any]]

# Handing a piece to a thread costs more than writing a small one.
_PIECE_BYTES = 1 << 20
# What is smaller is fetched again as a whole, by whoever wants it then.
RESUMABLE_BYTES = 1 << 20
# A try that brought less was not worth its request.
_WORTH_A_TRY_BYTES = 64 << 10
_MOST_TRIES = 20
_BROKEN = ("broken-transfer", "timeout", "unreachable")


class Transfer:
    """The transfer of one file.

    Args:
        client: of the repo.
        revision: commit that the file is of.
        path: in the repo.
        sink: gives the file to write to; not asked before a piece has come, or all of it.
        progress: called with each number of bytes that arrived.
        in_thread: runs a blocking call on a worker thread.
    """

    def __init__(
        self,
        client: HubClient,
        revision: str,
        path: str,
        sink: Sink,
        progress: Callable[[int], None],
        in_thread: InThread,
    ) -> None:
        self._client = client
        self._revision = revision
        self._path = path
        self._sink = sink
        self._progress = progress
        self._in_thread = in_thread
        self._arrived_bytes = 0
        self._may_restart = True

    async def run(self) -> tuple[IncomingFile, list[bytes]]:
        """The file, and its last pieces, which are still to be written.

        Raises RemoteUnavailable, EntryRefused, OSError, and what `sink` raises.
        """
        for _ in range(_MOST_TRIES):
            held: list[bytes] = []
            before_bytes = self._arrived_bytes
            try:
                broken = await self._try(held)
            except RangeRefused as refused:
                await self._restart(str(refused))
                continue
            incoming = await self._sink()
            size_bytes = incoming.expected.size_bytes
            if broken is None or self._arrived_bytes >= size_bytes:
                return incoming, held
            is_worth_it = self._arrived_bytes - before_bytes >= _WORTH_A_TRY_BYTES
            if size_bytes < RESUMABLE_BYTES or not is_worth_it:
                raise broken
            await self._in_thread(incoming.write, *held)
        raise RemoteUnavailable("broken-transfer", f"{_MOST_TRIES} tries were not enough")

    async def _try(self, held: list[bytes]) -> RemoteUnavailable | None:
        """One request; None at what the server calls the end, else why it broke."""
        try:
            is_all = await self._receive(held)
        except NotThere:
            raise RemoteUnavailable(REVISION_GONE, f"{self._path} went away") from None
        except RemoteUnavailable as error:
            if error.reason not in _BROKEN or not self._arrived_bytes:
                raise
            return error
        return None if is_all else RemoteUnavailable("broken-transfer", "it ended early")

    async def _receive(self, held: list[bytes]) -> bool:
        """Whether all arrived that the server has; the last pieces stay in `held`, to go with whatever comes next."""
        async with self._client.get_file(self._revision, self._path, self._arrived_bytes) as answer:
            if answer.start_bytes != self._arrived_bytes:  # it sends everything again
                await self._restart("the server does not go on in the middle")
            elif answer.start_bytes and answer.size_bytes not in (None, (await self._sink()).expected.size_bytes):
                raise RangeRefused("the content has another size now")
            held_bytes = 0
            async for piece, _ in answer.content.iter_chunks():  # as they came: joining them would copy everything
                self._progress(len(piece))
                self._arrived_bytes += len(piece)
                held.append(piece)
                held_bytes += len(piece)
                if held_bytes >= _PIECE_BYTES:
                    incoming = await self._sink()
                    pieces, held[:], held_bytes = held[:], [], 0
                    await self._in_thread(incoming.write, *pieces)
            # Without a stated length nobody knows whether it was cut: the size and the digest will tell.
            return answer.size_bytes is None or self._arrived_bytes >= answer.size_bytes

    async def _restart(self, why: str) -> None:
        """From the first byte, once: what the server has now may be sound."""
        if not self._may_restart:
            raise RemoteUnavailable("broken-transfer", why)
        self._may_restart = False
        await self._in_thread((await self._sink()).restart)
        self._arrived_bytes = 0
