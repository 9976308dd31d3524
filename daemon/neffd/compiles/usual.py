"""How long a compile usually takes: the middle of those that were seen. A plain object; no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from statistics import median
from typing import NamedTuple

from neff.keys import ModuleName

_REMEMBERED = 50
MOST_ENTRIES = 10_000


class Compile(NamedTuple):
    """One that has ended well: its seconds, and the size of the NEFF that it made where that is known."""

    name: ModuleName
    compile_s: float
    neff_bytes: int | None = None


class Usual:
    """Compile times in seconds: of single entries where recorded, else typical for their compiler version.

    Compiles are noted, oldest first.
    """

    def __init__(self, recorded: Iterable[Compile] = ()) -> None:
        self._of_entry: dict[ModuleName, float] = {}
        self._told: dict[ModuleName, float] = {}
        self._of_namespace: dict[str, deque[Compile]] = {}
        self.load(recorded)

    def load(self, recorded: Iterable[Compile]) -> None:
        """Go on with what an earlier life of the daemon has noted."""
        since, self._of_namespace = [seen for one in self._of_namespace.values() for seen in one], {}
        for compile_ in (*recorded, *since):
            self.note(*compile_)

    def note(self, name: ModuleName, compile_s: float, neff_bytes: int | None = None) -> None:
        """One more compile has ended well."""
        _put_last(self._of_entry, name, compile_s)  # those that were compiled longest ago go
        seen = self._of_namespace.setdefault(name.namespace, deque(maxlen=_REMEMBERED))
        seen.append(Compile(name, compile_s, neff_bytes))

    def told(self, seconds: Mapping[ModuleName, float]) -> None:
        """What other hosts say that compiling took them."""
        for name, compile_s in seconds.items():
            _put_last(self._told, name, compile_s)

    def of(self, name: ModuleName) -> float | None:
        """Seconds that this entry is expected to take; None where nothing is known."""
        if name in self._of_entry:
            return self._of_entry[name]
        seen = self._of_namespace.get(name.namespace)
        return median(compile_.compile_s for compile_ in seen) if seen else None

    def known(self, name: ModuleName, stated_s: float | None = None) -> float | None:
        """Seconds that compiling this very entry took, here or elsewhere; None where nobody has said so.

        Args:
            stated_s: what the entry itself says.
        """
        said = (self._of_entry.get(name), stated_s, self._told.get(name))
        return next((compile_s for compile_s in said if compile_s is not None), None)

    def worth(self, name: ModuleName, neff_bytes: int, stated_s: float | None = None) -> float | None:
        """Seconds of compiling that an entry spares whoever gets it; None where nothing is known.

        Args:
            neff_bytes: the size of its NEFF. A larger one than usual takes longer than usual: to compile it in vain
            would cost more than to wait for it in vain.
            stated_s: what the entry itself says.
        """
        known_s = self.known(name, stated_s)
        if known_s is not None:
            return known_s
        seen = self._of_namespace.get(name.namespace, ())
        sized = [(compile_.compile_s, compile_.neff_bytes) for compile_ in seen if compile_.neff_bytes]
        if not sized:
            return None
        typical_s = median(seconds for seconds, _ in sized)
        return max(typical_s, neff_bytes * median(seconds / size_bytes for seconds, size_bytes in sized))


def _put_last(known: dict[ModuleName, float], name: ModuleName, compile_s: float) -> None:
    known.pop(name, None)
    known[name] = compile_s
    if len(known) > MOST_ENTRIES:
        del known[next(iter(known))]
