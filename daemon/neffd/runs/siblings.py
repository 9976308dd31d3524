"""Which entries of a remote were published together: what one run made, the next one of its kind needs as a whole.

Only used where no manifest tells what a run is going to need, as with repos that were filled by other tools.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from neff.keys import ModuleName
from neffd.catalog.catalog import Catalog
from neffd.remotes.base import Remote, RemoteUnavailable

# Asked at first; after that only of what is new.
MAX_KEYS = 3_000
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

    async def _known(self, source: Source, name: ModuleName) -> dict[str, str]:
        remote, version = source.remote.name, source.catalog.version(name.namespace)
        async with self._asking.setdefault(remote, asyncio.Lock()):
            known = self._groups.setdefault((remote, name.namespace), _Groups())
            if known.version == version and name.key in known.of:
                return known.of
            if source.catalog.trouble is not None or self._clock() < self._not_before_s.get(remote, 0.0):
                return {}
            keys = _around(name.key, sorted(source.catalog.keys_of(name.namespace)))
            known.keep(keys)
            new = [key for key in keys if key not in known.of]
            try:
                told = await source.remote.published_with(name.namespace, new) if new else {}
            except RemoteUnavailable as error:
                self._not_before_s[remote] = self._clock() + max(_PAUSE_S, error.retry_after_s or 0.0)
                return {}
            known.of |= {key: sys.intern(told[key]) for key in new if key in told}
            known.of.setdefault(name.key, "")  # not asked again for this version
            known.version = version
            return known.of


@dataclass
class _Groups:
    """What came together in one namespace, at `version`; empty for a key of which nobody can say."""

    version: str | None = None
    of: dict[str, str] = field(default_factory=dict)

    def keep(self, keys: Sequence[str]) -> None:
        """Forget all but `keys`: with whom these came does not change."""
        self.of = {key: group for key in keys if (group := self.of.get(key))}


def _around(key: str, keys: Sequence[str]) -> Sequence[str]:
    """As many as may be asked, `key` among them."""
    if len(keys) <= MAX_KEYS:
        return keys
    position = keys.index(key) if key in keys else 0
    start = max(0, min(position - MAX_KEYS // 2, len(keys) - MAX_KEYS))
    return keys[start : start + MAX_KEYS]
