"""Whether models are public on a Hub: asked without a token, as anybody could."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from neffd.remotes.base import RemoteUnavailable
from neffd.remotes.hub.client import HubClient
from neffd.remotes.hub.tokens import TokenSource
from neffd.runs.publicity import Publicity, Seen
from neffd.tasks import Tasks

log = logging.getLogger(__name__)

_AT_ONCE = 4
_LIMIT_S = 15.0
# What the Hub says to strangers of a repo that is private, gated as a whole, or not there at all.
_NOT_FOR_ALL = ("repo-not-found", "bad-token", "forbidden")


class ModelVisibility:
    """One for each Hub; asks behind, and remembers.

    Args:
        endpoint: base URL of the Hub.
        clock: monotonic seconds.
        on_public: called when a model turns out to be public.
    """

    def __init__(
        self, endpoint: str, tasks: Tasks, clock: Callable[[], float], on_public: Callable[[], None] = lambda: None
    ) -> None:
        self._on_public = on_public
        self._endpoint = endpoint
        self._tasks = tasks
        self._publicity = Publicity(clock)
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def is_public(self, model_id: str) -> bool:
        """Whether everybody may see the model, as far as is known; where that is not known, it is being asked."""
        self._ask(model_id)
        return self._publicity.is_public(model_id)

    async def look(self, model_ids: Collection[str], limit_s: float) -> None:
        """Find out, for at most `limit_s`. Never raises."""
        for model_id in model_ids:
            self._ask(model_id)
        running = {task for model_id in model_ids if (task := self._asking.get(model_id)) is not None}
        if running:
            await asyncio.wait(running, timeout=limit_s)

    def _ask(self, model_id: str) -> None:
        if model_id not in self._asking and self._publicity.is_worth_asking(model_id):
            task = self._tasks.start(self._find_out(model_id), name=f"visibility-{model_id}")
            self._asking[model_id] = task
            task.add_done_callback(lambda _: self._asking.pop(model_id, None))

    async def _find_out(self, model_id: str) -> None:
        seen, retry_after_s = Seen.NO_ANSWER, None
        try:
            async with self._slots:
                seen = await asyncio.wait_for(self._seen(model_id), _LIMIT_S)
        except (RemoteUnavailable, asyncio.TimeoutError) as error:
            retry_after_s = error.retry_after_s if isinstance(error, RemoteUnavailable) else None
            log.info("whether %s is public: %s", model_id, error or "timeout")
        finally:
            self._publicity.note(model_id, seen, retry_after_s)
        if seen is Seen.PUBLIC:
            self._on_public()
        if seen is Seen.NOT_PUBLIC:
            log.info("%s is not public: what belongs to it is held back", model_id)

    async def _seen(self, model_id: str) -> Seen:
        client = HubClient(self._endpoint, model_id, TokenSource(anonymous=True))
        try:
            return Seen.NOT_PUBLIC if await client.is_private() else Seen.PUBLIC
        except RemoteUnavailable as error:
            if error.reason in _NOT_FOR_ALL:
                return Seen.NOT_PUBLIC
            raise
        finally:
            await client.close()
