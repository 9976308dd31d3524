"""Which folders of a repo hold no ready entry, as far as somebody asked: a listing of folders cannot tell."""

from __future__ import annotations

from neff.keys import ModuleName

_MOST = 10_000


class Unready:
    """What was denied at one revision, the latest that was asked at; the oldest denials go when there are too many."""

    def __init__(self) -> None:
        self._revision = ""
        self._names: dict[ModuleName, None] = {}  # a set that keeps its order

    def note(self, name: ModuleName, revision: str) -> None:
        """At `revision`, the latest known, this is no ready entry."""
        if revision != self._revision:
            self._revision, self._names = revision, {}
        self._names[name] = None
        if len(self._names) > _MOST:
            del self._names[next(iter(self._names))]

    def has(self, name: ModuleName, revision: str) -> bool:
        """Whether `name` is known to be no ready entry at `revision`."""
        return revision == self._revision and name in self._names
