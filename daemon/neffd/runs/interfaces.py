"""What `neffd.runs.jobs` needs of its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from neff.keys import LockId, ModuleName
from neffd.fetch.flight import Answer, Flight
from neffd.runs.manifests import Manifest
from neffd.store.root import CacheRoot


class Found(Protocol):
    """What `neffd.runs.library.Library` has found."""

    same_key: Sequence[Manifest]
    nearest: Sequence[Manifest]
    away: Sequence[str]


class Library(Protocol):
    """Manifests on remotes: `neffd.runs.library.Library`."""

    async def find(self, namespace: str, key: str, ingredients: Mapping[str, Any] | None) -> Found: ...

    async def offer(self, manifest: Manifest, *, private: bool, run: str, has_ended: bool) -> None: ...


class Place(Protocol):
    """One cache directory: `neffd.managed.ManagedRoot`."""

    root: CacheRoot

    @property
    def fetcher(self) -> Fetches: ...

    @property
    def space(self) -> HasRoom: ...

    @property
    def trust(self) -> Trusts: ...


class HasRoom(Protocol):
    """How much fits into a cache directory: `neffd.store.space.Space`."""

    def room_bytes(self, pinned: Collection[ModuleName]) -> int | None: ...


class Trusts(Protocol):
    """Whose work in a cache directory is for others: `neffd.publish.take.Trust`."""

    def covers_user(self, uid: int) -> bool: ...


class Fetches(Protocol):
    """Who brings modules: `neffd.fetch.fetcher.Fetcher`."""

    def resolve(self, name: ModuleName, *, urgent: bool = True, holding: LockId | None = None) -> Answer | Flight: ...


class Client(Protocol):
    """Who asks: `neffd.serve.session.Session`."""

    root: str | None
    uid: int
    pid: int

    def on_close(self, callback: Callable[[], None], key: object = None) -> None: ...
