"""How long a compile usually takes: the middle of those that were seen. A plain object; no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import median

from neff.keys import ModuleName

_REMEMBERED = 50


class Usual:
    """Compile times in seconds: of single entries where recorded, else typical for their compiler version."""

    def __init__(self, recorded: Mapping[ModuleName, float] | None = None) -> None:
        self._of_entry: dict[ModuleName, float] = {}
        self._of_namespace: dict[str, deque[float]] = {}
        for name, compile_s in (recorded or {}).items():
            self.note(name, compile_s)

    def note(self, name: ModuleName, compile_s: float) -> None:
        """One more compile has ended well."""
        self._of_entry[name] = compile_s
        self._of_namespace.setdefault(name.namespace, deque(maxlen=_REMEMBERED)).append(compile_s)

    def of(self, name: ModuleName) -> float | None:
        """Seconds that this entry is expected to take; None where nothing is known."""
        if name in self._of_entry:
            return self._of_entry[name]
        typical = self._of_namespace.get(name.namespace)
        return median(typical) if typical else None
