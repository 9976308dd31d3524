"""What a cache directory holds, as the collector's scans and looks last saw it: sizes, states, last reads.

Kept up to date by whoever looks anyway, so that no decision has to walk the directory again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.store.root import FileFacts, Inspection


@dataclass(frozen=True, slots=True)
class Held:
    """One entry as it was last seen. `read_at` is the NEFF's access time, wall seconds; 0 without one."""

    is_ready: bool
    is_locked: bool
    size_bytes: int
    neff: FileFacts | None
    read_at: float


class Census:
    """The entries of one cache directory, and their sums; changed on the event loop alone."""

    def __init__(self) -> None:
        self._held: dict[ModuleName, Held] = {}
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, name: ModuleName) -> Held | None:
        """One entry, as it was last seen."""
        return self._held.get(name)

    def saw(self, name: ModuleName, looks: Inspection) -> None:
        """Note how an entry looks now."""
        self.drop(name)
        if looks.folder_exists:
            is_ready = looks.state is xla.State.READY
            held = Held(is_ready, looks.is_locked, looks.size_bytes, looks.neff, looks.read_at)
            self._held[name] = held
            self.size_bytes += held.size_bytes

    def drop(self, name: ModuleName) -> None:
        """The entry is gone."""
        before = self._held.pop(name, None)
        if before is not None:
            self.size_bytes -= before.size_bytes

    def keep_only(self, names: Collection[ModuleName]) -> None:
        """A scan found these and no others; `names` is quick to look something up in."""
        for name in [name for name in self._held if name not in names]:
            self.drop(name)

    def snapshot(self) -> list[tuple[ModuleName, Held]]:
        """Everything, in one go."""
        return list(self._held.items())
