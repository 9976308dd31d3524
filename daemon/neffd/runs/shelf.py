"""Manifests that were read, kept in memory: each is read once, and so is what is none. A plain object."""

from __future__ import annotations

from collections import OrderedDict

from neffd.remotes.base import Document
from neffd.runs.manifests import Manifest

MAX_BYTES = 16 << 20
_MAX_DOCUMENTS = 20_000
# What keeping one costs beside its content.
_OVERHEAD_BYTES = 500

# A manifest, or why it is none.
Kept = Manifest | str


class Shelf:
    """Those that were not looked at for longest go first.

    Args:
        max_bytes: of the files, all together.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[str, str, str], tuple[Kept, int]] = OrderedDict()
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
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def put(self, remote: str, document: Document, what: Kept) -> None:
        """Keep what was read."""
        key = (remote, document.path, document.version)
        size_bytes = _OVERHEAD_BYTES + (0 if isinstance(what, str) else document.size_bytes)
        self._size_bytes += size_bytes - self._kept.pop(key, ("", 0))[1]
        self._kept[key] = (what, size_bytes)
        while len(self._kept) > 1 and (self._size_bytes > self._max_bytes or len(self._kept) > _MAX_DOCUMENTS):
            self._size_bytes -= self._kept.popitem(last=False)[1][1]
