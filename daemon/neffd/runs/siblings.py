"""Which entries of a remote were published together: what one run made, the next one of its kind needs as a whole.

Only used where no manifest tells what a run is going to need, as with repos that were filled by other tools.
"""

from __future__ import annotations

import asyncio
import heapq
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from neff.keys import ModuleName
from neffd.catalog.catalog import Catalog
from neffd.remotes.base import Remote, RemoteUnavailable

# Asked at once, at first; after that only what is new.
MAX_KEYS = 3_000
# For each state of a remote, so that a namespace of any size costs a few requests.
MAX_QUESTIONS = 4
# More than this at once was no run's work.
MAX_GROUP = 500
# A guess is not worth asking again at once.
_PAUSE_S = 60.0


class Source(Protocol):
    """A remote with what is known of it: `neffd.fetch.fetcher.Source`."""

    @property
    def remote(self) -> Remote: ...

    @property
    def catalog(self) -> Catalog: ...


class Siblings:
    """Knows, for the present state of each remote, what came together.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._groups: dict[tuple[str, str], _Groups] = {}
        self._not_before_s: dict[str, float] = {}
        self._asking: dict[str, asyncio.Lock] = {}

    async def of(self, source: Source, name: ModuleName) -> list[ModuleName]:
        """The others that came to the remote together with `name`, as they are listed. Never raises."""
        groups = await self._known(source, name)
        group = groups.get(name.key)
        if not group:
            return []
        together = [ModuleName(name.namespace, key) for key, other in groups.items() if other == group]
        return [other for other in together if other != name] if len(together) <= MAX_GROUP else []

    async def _known(self, source: Source, name: ModuleName) -> Mapping[str, str]:
        remote, catalog = source.remote.name, source.catalog
        async with self._asking.setdefault(remote, asyncio.Lock()):
            known = self._groups.setdefault((remote, name.namespace), _Groups())
            known.at(catalog.version(name.namespace), lambda key: catalog.knows(name.namespace, key))
            if not known.is_worth_asking(name.key):
                return known.of
            if catalog.trouble is not None or self._clock() < self._not_before_s.get(remote, 0.0):
                return {}
            wanted = await asyncio.to_thread(_around, name.key, catalog.keys_of(name.namespace))
            wanted = [key for key in wanted if key not in known.of]
            try:
                told = await source.remote.published_with(name.namespace, wanted) if wanted else {}
            except RemoteUnavailable as error:
                self._not_before_s[remote] = self._clock() + max(_PAUSE_S, error.retry_after_s or 0.0)
                return {}
            known.learn(name.key, wanted, told)
            return known.of


@dataclass
class _Groups:
    """What came together in one namespace, as far as it was asked; empty for a key of which nobody can say."""

    of: dict[str, str] = field(default_factory=dict)
    version: str | None = None
    questions: int = 0

    def at(self, version: str | None, is_there: Callable[[str], bool]) -> None:
        """With whom a key came does not change with the version; what is gone, and what nobody knew, is forgotten."""
        if version != self.version:
            self.version, self.questions = version, 0
            self.of = {key: group for key, group in self.of.items() if group and is_there(key)}

    def is_worth_asking(self, key: str) -> bool:
        return key not in self.of and self.questions < MAX_QUESTIONS

    def learn(self, key: str, wanted: Sequence[str], told: Mapping[str, str]) -> None:
        """Of `wanted`, asked for because of `key`, the remote has `told`."""
        self.questions += bool(wanted)
        if len(self.of) > MAX_KEYS * MAX_QUESTIONS:
            self.of = {}
        self.of |= {one: sys.intern(told.get(one, "")) for one in (*wanted, key)}


def _around(key: str, listed: Collection[str]) -> list[str]:
    """What may be asked about, `key` among it if it is listed; off the event loop, since there may be very many."""
    if len(listed) <= MAX_KEYS:
        return sorted(listed)
    before = heapq.nlargest(MAX_KEYS // 2, (one for one in listed if one < key))
    return before[::-1] + heapq.nsmallest(MAX_KEYS - len(before), (one for one in listed if one >= key))
