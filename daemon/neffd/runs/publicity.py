"""What is known of who may see models on a Hub, and for how long that holds. A plain object."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum

# A model that everybody may see rarely becomes private; one that was private is soon published, now and then.
PUBLIC_S = 86_400.0
NOT_PUBLIC_S = 600.0
# Nobody could say: not to be asked again at once.
RETRY_S = 60.0
MAX_MODELS = 1_000
_NAME = r"[0-9A-Za-z][0-9A-Za-z._-]{0,95}"
_ID = re.compile(rf"{_NAME}(/{_NAME})?")


class Seen(Enum):
    """What the Hub answered to somebody whom it does not know."""

    PUBLIC = "public"
    NOT_PUBLIC = "not-public"
    NO_ANSWER = "no-answer"


_HOLDS_S = {Seen.PUBLIC: PUBLIC_S, Seen.NOT_PUBLIC: NOT_PUBLIC_S, Seen.NO_ANSWER: RETRY_S}


class Publicity:
    """Remembers answers. Who is not known to be public counts as private.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[Seen, float]] = {}

    def is_public(self, model_id: str) -> bool:
        """Whether everybody may see the model, by an answer that still holds."""
        seen, until_s = self._seen.get(model_id, (Seen.NO_ANSWER, 0.0))
        return seen is Seen.PUBLIC and self._clock() < until_s

    def is_worth_asking(self, model_id: str) -> bool:
        """Whether no answer holds any more, and there may be one: some text of a client need not be a model's id."""
        if not _ID.fullmatch(model_id) or ".." in model_id or "--" in model_id:
            return False
        known = self._seen.get(model_id)
        if known is not None:
            return self._clock() >= known[1]
        return len(self._seen) < MAX_MODELS or self._has_dropped()

    def note(self, model_id: str, seen: Seen, retry_after_s: float | None = None) -> None:
        """The Hub has answered, or not; `retry_after_s` is how long it wants to be left alone."""
        holds_s = _HOLDS_S[seen]
        if seen is Seen.NO_ANSWER:
            holds_s = min(max(holds_s, retry_after_s or 0.0), NOT_PUBLIC_S)
        self._seen[model_id] = seen, self._clock() + holds_s

    def _has_dropped(self) -> bool:
        """Whether there is room again without what holds no more."""
        now_s = self._clock()
        self._seen = {model_id: known for model_id, known in self._seen.items() if known[1] > now_s}
        return len(self._seen) < MAX_MODELS
