"""What goes to a remote together with entries: the interface that the pusher knows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from neff.keys import ModuleName
from neffd.remotes.base import NO_DOCUMENTS, EntryFailed, OutgoingEntry, PublishResult, RemoteUnavailable

log = logging.getLogger(__name__)

# Entries wait no longer for what is to ride along.
LIMIT_S = 3.0
Send = Callable[[Sequence[OutgoingEntry], Mapping[str, bytes]], Awaitable[Sequence["PublishResult | EntryFailed"]]]


class Companions(Protocol):
    """Documents that go with entries, or alone where none go: `neffd.runs.outgoing.Outgoing`."""

    on_change: Callable[[], None]

    @property
    def due_in_s(self) -> float | None:
        """Seconds until something goes alone; None while nothing waits."""

    @property
    def ready(self) -> int:
        """How many may go alone."""

    def status(self) -> dict[str, Any]:
        """For the status document."""

    async def load(self) -> None:
        """Go on with what an earlier life left."""

    def access(self, is_public: bool) -> None:
        """Who may read the remote."""

    def flush(self) -> None:
        """Send what may go."""

    async def riding(self, names: Collection[ModuleName]) -> Mapping[str, bytes]:
        """What goes with a batch of these entries, by path."""

    async def alone(self) -> Mapping[str, bytes]:
        """What goes alone now."""

    async def went(self, outcomes: Mapping[str, PublishResult | EntryFailed], *, alone: bool) -> None:
        """What became of it."""

    def postponed(self, error: RemoteUnavailable) -> None:
        """The remote could not take what was to go alone."""


async def riding(companions: Companions, names: Collection[ModuleName], remote: str) -> Mapping[str, bytes]:
    """What goes with a batch of these entries; whatever is wrong with it is no reason to hold these up."""
    try:
        return await asyncio.wait_for(companions.riding(names), LIMIT_S)
    except asyncio.TimeoutError:
        pass
    except Exception:
        log.exception("what is to go with entries to %s", remote)
    return NO_DOCUMENTS


async def go_alone(companions: Companions, send: Send, remote: str) -> None:
    """Documents that nothing takes along. Their trouble is no reason to rest: entries go as before."""
    documents = await companions.alone()
    if not documents:
        return
    try:
        outcomes = await send([], documents)
    except RemoteUnavailable as error:
        log.info("telling %s of runs: %s", remote, error)
        companions.postponed(error)
        return
    await companions.went(dict(zip(documents, outcomes, strict=True)), alone=True)
