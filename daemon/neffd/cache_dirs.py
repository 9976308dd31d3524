"""One cache directory put together: who watches it, fetches into it, keeps its size and looks after its failures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection

from neff.keys import ModuleName
from neffd.fetch.fetcher import Fetcher
from neffd.managed import ManagedRoot
from neffd.publish.batch import Item
from neffd.publish.collect import Collector
from neffd.publish.take import Trust
from neffd.remote_list import RemoteList
from neffd.resources import Resources
from neffd.serve.status import Problems
from neffd.store.root import CacheRoot
from neffd.store.space import Space, limits_of, policy_of


def manage(
    shared: Resources,
    remotes: RemoteList,
    root: CacheRoot,
    *,
    others: Callable[[], Collection[CacheRoot]],
    on_unlocked: Callable[[CacheRoot, ModuleName], None],
    pinned: Callable[[], Collection[ModuleName]],
) -> ManagedRoot:
    """Everything that serves `root`.

    Args:
        pinned: what a running or recent run uses, which is not evicted.
        others: the managed cache directories; what one of them holds need not be fetched again.
        on_unlocked: a lock file in it came or went.
    """
    config, care = shared.config, shared.care
    problems = Problems(str(root.path))
    trust = Trust.of(root.path, config.upload.trusted_uids, config.upload.trusted_gids)
    space = _space(shared, remotes, root, problems, pinned, is_settling=lambda name: collector.is_settling(name))
    fetcher = _fetcher(shared, remotes, root, problems, space, others, on_placed=lambda name: collector.look_soon(name))
    fetch_calmly = functools.partial(fetcher.resolve, urgent=False)
    root_care = care.look_after(root, config, trust, fetch=fetch_calmly, problems=problems)

    def is_taken(name: ModuleName, item: Item, audience: Collection[str]) -> None:
        care.taken(name, audience)
        remotes.add(item, audience)

    collector = Collector(
        root,
        shared.index,
        shared.journal,
        shared.metrics,
        shared.workers,
        audience=remotes.audience,
        trust=trust,
        settle_s=config.upload.settle_s,
        scan_s=config.scan_s,
        on_taken=is_taken,
        on_unlocked=functools.partial(on_unlocked, root),
        on_namespace=remotes.use_namespace,
        on_look=lambda name, looks: root_care.saw(name, looks) if space.saw(name, looks) else None,
        on_scanned=space.scanned,
        on_new_root=remotes.look_for_lost,
        compile_s=root_care.compile_s,
        problems=problems,
        clock=shared.clock,
    )
    return ManagedRoot(root, fetcher, collector, space, problems, trust)


def _space(
    shared: Resources,
    remotes: RemoteList,
    root: CacheRoot,
    problems: Problems,
    pinned: Callable[[], Collection[ModuleName]],
    is_settling: Callable[[ModuleName], bool],
) -> Space:
    return Space(
        root,
        shared.index,
        shared.metrics,
        shared.workers,
        limits=limits_of(shared.config.store, root),
        policy=policy_of(shared.config.store),
        copies=remotes.copies,
        confirmed=remotes.confirmed,
        is_settling=is_settling,
        pinned=pinned,
        on_evicted=lambda name: shared.care.history.note(root.path, name, "evicted"),
        on_problem=problems.note,
        on_healed=problems.over,
    )


def _fetcher(
    shared: Resources,
    remotes: RemoteList,
    root: CacheRoot,
    problems: Problems,
    space: Space,
    others: Callable[[], Collection[CacheRoot]],
    on_placed: Callable[[ModuleName], None],
) -> Fetcher:
    return Fetcher(
        root,
        remotes.sources,
        shared.index,
        shared.refusals,
        shared.tasks,
        shared.metrics,
        shared.workers,
        line=shared.line,
        space=space,
        stall_s=shared.config.fetch.stall_s,
        worth_s=shared.usual.worth,
        known_s=shared.usual.known,
        elsewhere=others,
        on_placed=on_placed,
        clock=shared.clock,
        problems=problems,
    )
