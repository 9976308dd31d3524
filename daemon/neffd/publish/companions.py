"""What goes to a remote together with entries: the interface that the pusher knows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from neff.keys import ModuleName
from neffd.remotes.base import EntryFailed, PublishResult, RemoteUnavailable


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
