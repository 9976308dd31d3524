"""Manifests that were read, kept in memory: each is read once while anybody asks for it, and so is what is none.

A plain object with an injected clock.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from neffd.remotes.base import Document
from neffd.runs.manifests import Manifest

MAX_BYTES = 16 << 20
_MAX_DOCUMENTS = 20_000
# Most runs end and never come again.
FORGOTTEN_AFTER_S = 900.0
# What keeping one costs beside its content.
_OVERHEAD_BYTES = 500

# A manifest, or why it is none.
Kept = Manifest | str


class Shelf:
    """Those that were not looked at for longest go first, where there are too many, or when it was long enough.

    Args:
        max_bytes: of the files, all together.
        clock: monotonic seconds.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        # With what each costs, and when it was last looked at; in the order of that.
        self._kept: OrderedDict[tuple[str, str, str], tuple[Kept, int, float]] = OrderedDict()
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """What is kept, with what keeping it costs."""
        return self._size_bytes

    def get(self, remote: str, document: Document) -> Kept | None:
        """What is known of a document as it is now; None where it has to be read."""
        key = (remote, document.path, document.version)
        if key not in self._kept:
            return None
        what, size_bytes, _ = self._kept.pop(key)
        self._kept[key] = (what, size_bytes, self._clock())
        return what

    def put(self, remote: str, document: Document, what: Kept) -> None:
        """Keep what was read."""
        key = (remote, document.path, document.version)
        size_bytes = _OVERHEAD_BYTES + (0 if isinstance(what, str) else document.size_bytes)
        self._size_bytes += size_bytes - self._kept.pop(key, ("", 0, 0.0))[1]
        self._kept[key] = (what, size_bytes, self._clock())
        while len(self._kept) > 1 and self._has_too_much():
            self._size_bytes -= self._kept.popitem(last=False)[1][1]

    def _has_too_much(self) -> bool:
        if self._size_bytes > self._max_bytes or len(self._kept) > _MAX_DOCUMENTS:
            return True
        _, _, looked_at_s = next(iter(self._kept.values()))
        return self._clock() - looked_at_s > FORGOTTEN_AFTER_S
