"""For which remotes an entry is: decided by where it came from. A plain object; no I/O."""

from __future__ import annotations

from dataclasses import dataclass

from neffd.store.index import EXISTING, Known
from neffd.store.root import FileFacts


@dataclass(frozen=True)
class Audience:
    """For whom entries are: own ones for every read-write remote, fetched ones for those that mirror.

    `existing` says whether own entries from before the first start count.
    """

    remotes: frozenset[str]
    mirrors: frozenset[str]
    existing: bool

    @property
    def is_nobody(self) -> bool:
        """Whether no entry is meant for anybody: on a host that only reads."""
        return not self.remotes and not self.mirrors

    def of(self, known: Known | None, neff: FileFacts) -> frozenset[str]:
        """The remotes that an entry is meant for."""
        if known is None or not known.is_same(neff):
            return self.remotes
        if known.fetched_from is not None:
            return self.mirrors - {known.fetched_from}
        if known.origin == EXISTING and not self.existing:
            return frozenset()
        return self.remotes
