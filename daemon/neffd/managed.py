"""What belongs together: one cache directory, or one remote, with everything that serves it."""

from __future__ import annotations

from typing import Any

from neffd.catalog.catalog import Catalog
from neffd.config import RemoteConfig
from neffd.fetch.fetcher import Fetcher
from neffd.fetch.refusals import Refusals
from neffd.publish.collect import Collector
from neffd.publish.push import Pusher
from neffd.publish.take import Trust
from neffd.remotes.base import Remote
from neffd.serve.status import Problems
from neffd.store.root import CacheRoot
from neffd.store.space import Space

# The status document must fit into one line of the local protocol.
_PARKED_SHOWN = 100


class ManagedRoot:
    """One cache directory with what serves it, and whose work in it others are given."""

    def __init__(
        self,
        root: CacheRoot,
        fetcher: Fetcher,
        collector: Collector,
        space: Space,
        problems: Problems,
        trust: Trust,
    ) -> None:
        self.root = root
        self.fetcher = fetcher
        self.collector = collector
        self.space = space
        self.problems = problems
        self.trust = trust

    def status(self) -> dict[str, Any]:
        counts = self.collector.counts
        device, inode = self.root.identity() or (None, None)
        return {
            "path": str(self.root.path),
            "device": device,
            "inode": inode,
            "staging": str(self.root.staging),
            "entries": {state: counts[state] for state in ("ready", "compiling", "pending", "failed")},
            "space": self.space.status(),
            "problems": self.problems.status(),
        }


class ManagedRemote:
    """One remote with its catalog and, where we may write, its pusher."""

    def __init__(
        self, config: RemoteConfig, remote: Remote, catalog: Catalog, pusher: Pusher | None, refusals: Refusals
    ) -> None:
        self.config = config
        self.remote = remote
        self.catalog = catalog
        self.pusher = pusher
        self._refusals = refusals

    def status(self) -> dict[str, Any]:
        pusher = self.pusher
        trouble = self.catalog.trouble or (pusher.trouble or pusher.writes.reason if pusher else None)
        parked = list(pusher.parked.values()) if pusher else []
        return {
            "name": self.remote.name,
            "url": self.config.url,
            "mode": self.config.mode,
            "available": self.catalog.is_available,
            "reason": trouble,
            "can_write": bool(pusher.access and pusher.access.can_write) if pusher else False,
            "allow_public": self.config.allow_public,
            "allow_private_models": self.config.allow_private_models,
            "breaker": {
                "read": self.catalog.reads.status(),
                "write": pusher.writes.status() if pusher else None,
            },
            "catalog": self.catalog.status(),
            "refused": self._refusals.status(self.remote.name),
            "journal": {
                "waiting": pusher.waiting if pusher else 0,
                "oldest_s": round(pusher.oldest_s, 1) if pusher and pusher.oldest_s is not None else None,
                "parked_count": len(parked),
                "parked": [{"name": str(kept.name), "reason": kept.reason} for kept in parked[:_PARKED_SHOWN]],
            },
            "manifests": pusher.companions_status() if pusher else None,
        }
