"""What remotes know of runs, read and told: the manifests of all hosts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neffd.config import RemoteConfig
from neffd.config_sections import UploadConfig
from neffd.fetch.fetcher import Source
from neffd.metrics import Metrics
from neffd.runs import manifests, plans
from neffd.runs.manifests import Manifest
from neffd.runs.outgoing import Outgoing
from neffd.runs.owners import is_any_private, of_manifest
from neffd.runs.pending import PendingBook
from neffd.runs.reading import Looked, Reader, Wanted
from neffd.store.database import Database
from neffd.tasks import Tasks


@dataclass
class Found:
    """What remotes have for one run.

    Attributes:
        same_key: manifests of the same run key.
        nearest: of runs of the same model, those first that differ in the fewest ingredients.
        away: remotes that could not be asked, or not to the end: there may be more.
    """

    same_key: Sequence[Manifest] = ()
    nearest: Sequence[Manifest] = ()
    away: Sequence[str] = ()

    @property
    def sources(self) -> list[str]:
        """The paths of what there is to go by: those of the same key, else the nearest."""
        return [manifests.path_of(manifest) for manifest in self.same_key or self.nearest]


class Library:
    """One for the daemon.

    Args:
        sources: the remotes, nearest first; changes in place.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        database: Database,
        tasks: Tasks,
        metrics: Metrics,
        sources: Sequence[Source],
        clock: Callable[[], float],
    ) -> None:
        self._book = PendingBook(database)
        self._metrics = metrics
        self._sources = sources
        self._clock = clock
        self._reader = Reader(tasks, metrics, clock)
        self._outgoing: dict[str, Outgoing] = {}

    async def find(self, namespace: str, key: str, ingredients: Mapping[str, Any] | None) -> Found:
        """What remotes have for a run, after `reading.PATIENCE_S` at most, whatever one of them does. Never raises."""
        wanted = Wanted(namespace, key, ingredients)
        sources = list(self._sources)
        looked = await asyncio.gather(*(self._reader.look(source, wanted) for source in sources))
        nearest = _each_once(manifest for one in looked for manifest in one.nearest)
        nearest.sort(key=lambda other: len(plans.differences(ingredients or {}, other.ingredients)))
        return Found(
            _each_once(manifest for one in looked for manifest in one.same_key),
            nearest,
            [source.remote.name for source, one in zip(sources, looked, strict=True) if not one.is_certain],
        )

    async def offer(self, manifest: Manifest, *, private: bool, run: str = "", has_ended: bool = True) -> None:
        """Have every remote that may be written told what a run used; kept until they are, also over a restart.

        Args:
            private: the model is nothing that everybody may know of.
            run: its name on this host, told to nobody; what is offered for the same one again replaces what was.
            has_ended: nothing more will come.
        """
        for outgoing in list(self._outgoing.values()):
            await outgoing.put(run or manifest.run_key, manifest, private=private, has_ended=has_ended)

    def outgoing(
        self,
        config: RemoteConfig,
        upload: UploadConfig,
        source: Source,
        is_private: Callable[[Collection[str]], bool] = is_any_private,
    ) -> Outgoing:
        """What a remote that is written has to be told.

        Args:
            is_private: whether one of these models is nothing that everybody may know of; see `neffd.runs.owners`.
        """
        made = Outgoing(
            config.name,
            self._book,
            self._metrics,
            allow_public=config.allow_public,
            allow_private=config.allow_private_models,
            is_open=lambda one: not is_private(of_manifest(one.manifest.ingredients, is_private=one.is_private)),
            holds=lambda name: source.catalog.knows(*name),
            known=lambda manifest: self._known(source, manifest),
            on_told=lambda: self._reader.changed(config.name),
            quiet_s=upload.quiet_s,
            max_delay_s=upload.max_delay_s,
            clock=self._clock,
        )
        self._outgoing[config.name] = made
        return made

    async def _known(self, source: Source, manifest: Manifest) -> frozenset[str] | None:
        """Keys that manifests of the same run key on one remote name; None where it was not read to the end lately."""
        wanted = Wanted(manifest.namespace, manifest.run_key, manifest.ingredients)
        looked: Looked = await self._reader.look(source, wanted)
        if not (looked.is_certain or looked.is_recent):  # one that is always slow would never be told of anything
            return None
        return frozenset(module.key for other in looked.same_key for module in other.modules)


def _each_once(found: Iterable[Manifest]) -> list[Manifest]:
    """Two remotes may have the same one."""
    return list({(one.run_key, one.modules, repr(one.ingredients)): one for one in found}.values())
