"""The remotes of this daemon, nearest first, with what serves each: opened, started, and asked as one."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from neff import keys
from neff.keys import ModuleName
from neffd.breaker import Breakers
from neffd.catalog.catalog import CHECK_LIMIT_S, Catalog
from neffd.catalog.saved import SavedListings
from neffd.config import RemoteConfig
from neffd.config_defaults import DEFAULT, hub_endpoint, passed_over
from neffd.fetch.fetcher import Source
from neffd.managed import ManagedRemote
from neffd.publish.audience import Audience
from neffd.publish.batch import Item, Limits
from neffd.publish.journal import Parked
from neffd.publish.push import Pusher
from neffd.remotes.base import PublishResult, Remote, RemoteUnavailable
from neffd.remotes.opening import open_remote
from neffd.resources import Resources
from neffd.runs.library import Library
from neffd.runs.owners import Owners, is_any_private

if TYPE_CHECKING:
    from neffd.remotes.hub.visibility import ModelVisibility

log = logging.getLogger(__name__)
T = TypeVar("T")

# Each costs polls and, where it is written, a worker process.
_MAX_REMOTES = 16
MISNAMED = "repo-misnamed"
_IS_THERE = frozenset(result.value for result in PublishResult)


class RemoteList:
    """The configured remotes, and those that clients brought.

    Attributes:
        sources: what fetchers ask, in the order of preference; changes in place when a client brings a remote.
        orphans: entries that the journal holds for remotes which nothing is pushed to.
        library: what they know of runs.
        owners: whose graphs entries are; filled by whoever knows runs.
    """

    def __init__(self, shared: Resources) -> None:
        self._shared = shared
        self._remotes: list[ManagedRemote] = []
        self.sources: list[Source] = []
        self.orphans: dict[str, list[ModuleName]] = {}
        self.library = Library(shared.database, shared.tasks, shared.metrics, self.sources, shared.clock)
        self.owners = Owners()
        self._visibility: dict[str, ModelVisibility] = {}

    def __iter__(self) -> Iterator[ManagedRemote]:
        return iter(self._remotes)

    def open_all(self) -> None:
        """Open what is configured; raises NeffdError."""
        for config in self._shared.config.remotes:
            self._put(len(self._remotes), self._open(config))
        where = passed_over(os.environ) if self._shared.config.source("remotes") == DEFAULT else None
        if where is not None:
            detail = f"{where} does not hold the name of a repo: that one is no remote"
            self._shared.problems.note(MISNAMED, detail, "OWNER/NAME alone, without an address; then restart neffd")

    def start(self) -> None:
        """Begin to look at them, and to push."""
        for managed in self._remotes:
            self._start(managed)

    async def close(self) -> None:
        """Let go of their connections and processes."""
        for managed in self._remotes:
            await managed.remote.close()

    async def find_orphans(self) -> None:
        """Note what waits for remotes that nothing is pushed to: renamed, removed, or read-only now."""
        journal = self._shared.journal
        pushed = {managed.remote.name for managed in self._remotes if managed.pusher is not None}
        self.orphans = {remote: await journal.names_for(remote) for remote in sorted(await journal.remotes() - pushed)}
        for remote, names in self.orphans.items():
            self._shared.metrics.watch_parked(remote, names.__len__)
            log.warning(
                "%d entries wait for remote %r, which is not configured as read-write; they stay until one is",
                len(names),
                remote,
            )

    def use_client_repo(self, repo: object) -> str | None:
        """Honour the Hub repo of a client's environment; the reason where that is not to be."""
        if not isinstance(repo, str) or any(managed.config.repo_id == repo for managed in self._remotes):
            return None
        if not self._shared.config.allow_client_remotes or len(self._remotes) >= _MAX_REMOTES:
            return "repo-not-configured"
        try:
            config = RemoteConfig(url=f"hf://{repo}", mode="read-write")
        except ValueError:
            return "repo-not-configured"
        if any(managed.config.name == config.name for managed in self._remotes):
            return "repo-not-configured"
        log.info("a client brought the remote %s", repo)
        managed = self._open(config)
        self._put(0, managed)  # what a user chose goes before what everybody has
        self._start(managed)
        self.orphans.pop(managed.remote.name, None)  # what waited for it goes now
        return None

    def expect_questions(self) -> None:
        """A trainer has come."""
        for managed in self._remotes:
            managed.catalog.expect_questions()

    def use_namespace(self, namespace: str) -> None:
        """A compiler version is in use on this host."""
        for managed in self._remotes:
            managed.catalog.use(namespace)

    def add(self, item: Item, remotes: Collection[str]) -> None:
        """An entry is in the journal for these remotes."""
        for managed in self._remotes:
            if managed.pusher is not None and managed.remote.name in remotes:
                managed.pusher.add(item)

    def flush(self) -> None:
        """Send what waits without its quiet time."""
        for managed in self._remotes:
            if managed.pusher is not None:
                managed.pusher.flush()

    def look_for_lost(self) -> None:
        """Files of entries that could not be sent may be there again."""
        for managed in self._remotes:
            if managed.pusher is not None:
                managed.pusher.look_for_lost()

    def hurry(self) -> None:
        """Send what can be sent before an end that is near."""
        for managed in self._remotes:
            if managed.pusher is not None:
                managed.pusher.hurry()

    @property
    def waiting(self) -> int:
        """Deliveries that are queued or under way."""
        return sum(managed.pusher.waiting for managed in self._remotes if managed.pusher is not None)

    @property
    def unread(self) -> int:
        """Remotes for which the journal may hold more than is queued: it was not read yet."""
        return sum(not managed.pusher.has_begun for managed in self._remotes if managed.pusher is not None)

    @property
    def companions_ready(self) -> int:
        """Documents that could go now."""
        return sum(managed.pusher.companions_ready for managed in self._remotes if managed.pusher is not None)

    @property
    def is_busy(self) -> bool:
        """Whether a batch is on its way."""
        return any(managed.pusher is not None and managed.pusher.is_busy for managed in self._remotes)

    @property
    def is_hopeful(self) -> bool:
        """Whether something waits somewhere, and nothing is in its way."""
        return any(managed.pusher is not None and managed.pusher.is_hopeful for managed in self._remotes)

    def parked(self) -> list[Parked]:
        """What was set aside for good, and what waits for remotes that are not there."""
        parked = [kept for managed in self._remotes if managed.pusher for kept in managed.pusher.parked.values()]
        return parked + [
            Parked(name, remote, "remote-not-configured") for remote, names in self.orphans.items() for name in names
        ]

    def audience(self) -> Audience:
        """For which remotes entries are."""
        writable = [managed.config for managed in self._remotes if managed.pusher is not None]
        return Audience(
            frozenset(config.name for config in writable),
            frozenset(config.name for config in writable if config.mirror),
            existing=self._shared.config.upload.existing != "never",
        )

    def catalogs(self) -> list[tuple[str, Catalog]]:
        """Name and catalog of each."""
        return [(managed.remote.name, managed.catalog) for managed in self._remotes]

    def copies(self, name: ModuleName) -> tuple[int, int]:
        """How many hold an entry that can be used: those that answer, those that do not just now."""
        usable = self._usable(name)
        away = sum(catalog.trouble is not None for catalog in usable)
        return len(usable) - away, away

    def _usable(self, name: ModuleName) -> list[Catalog]:
        return [
            catalog
            for remote, catalog in self.catalogs()
            if catalog.knows(*name) and not self._shared.refusals.noted(remote, name)
        ]

    async def confirmed(self, names: Collection[ModuleName]) -> set[ModuleName]:
        """Which of these a remote, asked now, says it holds; one question for each remote and compiler version."""
        asked: dict[tuple[Catalog, str], list[str]] = {}
        for name in names:
            for catalog in self._usable(name):
                asked.setdefault((catalog, name.namespace), []).append(name.key)
        found = await asyncio.gather(*(_confirmed(*which, keys) for which, keys in asked.items()))
        return set().union(*found)

    def holds(self, name: ModuleName) -> bool:
        """Whether one that answers is known to hold an entry that can be used."""
        return self.copies(name)[0] > 0

    async def listed(self, namespace: str) -> tuple[list[ModuleName], list[str]]:
        """Everything that is known to be held of a compiler version; and who could not be asked, or not to the end."""
        away = await self.refresh([namespace])
        held = [catalog.keys_of(namespace) for _, catalog in self.catalogs()]
        # In a thread: there may be very many.
        names = await asyncio.to_thread(lambda: [ModuleName(namespace, key) for key in sorted(set().union(*held))])
        return names, away

    async def namespaces(self) -> tuple[list[str], list[str]]:
        """The compiler versions that entries are held of, newest first; and who did not say in time. Never raises."""
        looks = [
            (remote, self._shared.tasks.start(catalog.namespaces(), name=f"namespaces-{remote}", watched=True))
            for remote, catalog in self.catalogs()
        ]
        answered, away = await _in_time(looks)
        return sorted(set().union(*answered), key=keys.compiler_version, reverse=True), away

    async def refresh(self, namespaces: Collection[str]) -> list[str]:
        """Bring what is known of compiler versions up to date; returns who did not answer in time. Never raises."""
        looks = [
            (remote, self._shared.tasks.start(catalog.refresh(namespace), name=f"refresh-{remote}", watched=True))
            for remote, catalog in self.catalogs()
            for namespace in namespaces
        ]
        return (await _in_time(looks))[1]

    async def full_names(self, keys: Collection[str]) -> dict[str, list[ModuleName]]:
        """For each bare key the names under which some remote holds it; every remote is asked once.

        A key that none is known to hold is left out where a remote could not be asked.
        """
        catalogs = [catalog for _, catalog in self.catalogs()]
        all_answered = True
        found = set[ModuleName]()
        for told in await asyncio.gather(*(catalog.find(keys) for catalog in catalogs), return_exceptions=True):
            if isinstance(told, RemoteUnavailable):
                log.info("looking for bare keys: %s", told)
                all_answered = False
            elif isinstance(told, BaseException):
                raise told
            else:
                found |= told
        for key in keys:
            found |= {ModuleName(namespace, key) for catalog in catalogs for namespace in catalog.namespaces_with(key)}
        names: dict[str, list[ModuleName]] = {key: [] for key in keys}
        for name in sorted(found):
            names[name.key].append(name)
        return {key: known for key, known in names.items() if known or all_answered}

    def _put(self, position: int, managed: ManagedRemote) -> None:
        self._remotes.insert(position, managed)
        self.sources.insert(position, Source(managed.remote, managed.catalog))

    def _start(self, managed: ManagedRemote) -> None:
        name, tasks = managed.remote.name, self._shared.tasks
        tasks.start(managed.catalog.keep_fresh(), name=f"catalog-{name}")
        if managed.pusher is not None:
            tasks.start(managed.pusher.run(), name=f"push-{name}")

    def _open(self, config: RemoteConfig) -> ManagedRemote:
        shared = self._shared
        remote = open_remote(config, shared.config.state_dir)
        breakers = Breakers(shared.clock)
        shared.metrics.watch_breaker(remote.name, "read", breakers.read)
        catalog = Catalog(
            remote,
            shared.tasks,
            shared.metrics,
            SavedListings(shared.database),
            poll_s=config.poll_s,
            clock=shared.clock,
            reads=breakers.read,
        )
        pusher = self._pusher(config, remote, catalog, breakers) if config.can_write else None
        return ManagedRemote(config, remote, catalog, pusher, shared.refusals)

    def _is_private(self, config: RemoteConfig, owners: Collection[str]) -> bool:
        """Whether one of these models is not for everybody, or nobody knows; asks behind where it may be."""
        if is_any_private(owners):
            return True
        visibility = self._visibility_at(config) if owners else None
        return visibility is not None and not all([visibility.is_public(model_id) for model_id in owners])

    async def _learn_whose(self, config: RemoteConfig, names: Collection[ModuleName]) -> None:
        visibility = self._visibility_at(config)
        wanted = {model_id for name in names for model_id in self.owners.of(name)}
        if visibility is not None and wanted:
            await visibility.look(wanted, CHECK_LIMIT_S)

    def _visibility_at(self, config: RemoteConfig) -> ModelVisibility | None:
        """Who knows models on the Hub of a remote; None for one that is on no Hub."""
        if config.kind == "directory":
            return None
        from neffd.remotes.hub.visibility import ModelVisibility  # only here: a daemon without a Hub starts sooner

        endpoint = config.endpoint or hub_endpoint(os.environ)
        if endpoint not in self._visibility:
            shared = self._shared
            self._visibility[endpoint] = ModelVisibility(endpoint, shared.tasks, shared.clock, self._look_again)
        return self._visibility[endpoint]

    def _look_again(self) -> None:
        """What was held back may go now."""
        for managed in self._remotes:
            if managed.pusher is not None:
                managed.pusher.look_again()

    def _pusher(self, config: RemoteConfig, remote: Remote, catalog: Catalog, breakers: Breakers) -> Pusher:
        shared, upload = self._shared, self._shared.config.upload
        shared.metrics.watch_breaker(remote.name, "write", breakers.write)

        is_private = functools.partial(self._is_private, config)
        manifests = self.library.outgoing(config, upload, Source(remote, catalog), is_private)

        def delivered(name: ModuleName, outcome: str) -> None:
            shared.care.delivered(remote.name, name, outcome)
            if outcome in _IS_THERE:
                catalog.learn(*name)

        pusher = Pusher(
            remote,
            shared.journal,
            shared.metrics,
            Limits(upload.quiet_s, upload.max_delay_s, upload.max_bytes, upload.max_files),
            allow_public=config.allow_public,
            existing=upload.existing,
            allow_private_models=config.allow_private_models,
            is_private=lambda name: is_private(self.owners.of(name)),
            find_out=functools.partial(self._learn_whose, config),
            companions=manifests,
            is_refused=lambda name: shared.refusals.stands(catalog, name, look=True),
            writes=breakers.write,
            on_outcome=delivered,
            clock=shared.clock,
        )
        shared.metrics.watch_parked(remote.name, lambda: len(pusher.parked))
        return pusher


async def _in_time(looks: Sequence[tuple[str, asyncio.Task[T]]]) -> tuple[list[T], list[str]]:
    """What remotes answer in the time that somebody waits, and the names of those that do not."""
    if looks:
        await asyncio.wait([look for _, look in looks], timeout=CHECK_LIMIT_S)
    is_told = {look: look.done() and not look.cancelled() and look.exception() is None for _, look in looks}
    away = dict.fromkeys(remote for remote, look in looks if not is_told[look])
    return [look.result() for look, told in is_told.items() if told], list(away)


async def _confirmed(catalog: Catalog, namespace: str, keys: Collection[str]) -> set[ModuleName]:
    try:
        return {ModuleName(namespace, key) for key in await catalog.confirm(namespace, keys)}
    except RemoteUnavailable as error:
        log.debug("whether %s holds %d entries: %s", catalog.name, len(keys), error)
        return set()
