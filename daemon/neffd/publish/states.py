"""In which state each entry of a cache directory was when it was last looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.store.root import Inspection


class States:
    """Kept by whoever looks; never empty in between.

    Attributes:
        counts: how many entries are in each state, by its name.
    """

    def __init__(self) -> None:
        self._states: dict[ModuleName, xla.State] = {}
        self.counts: Counter[str] = Counter()

    def saw(self, name: ModuleName, looks: Inspection) -> None:
        """Note how an entry looks now."""
        self._forget(name)
        if looks.folder_exists:
            self._states[name] = looks.state
            self.counts[looks.state.value] += 1

    def keep_only(self, names: Collection[ModuleName]) -> None:
        """A scan found these and no others; `names` is quick to look something up in."""
        for name in [name for name in self._states if name not in names]:
            self._forget(name)

    def locked(self) -> list[ModuleName]:
        """Entries that carried a lock."""
        return [name for name, state in self._states.items() if state is xla.State.COMPILING]

    def _forget(self, name: ModuleName) -> None:
        before = self._states.pop(name, None)
        if before is not None:
            self.counts[before.value] -= 1
