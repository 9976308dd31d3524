"""The keeper of all locks, put together from what the service has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from neffd.compiles.board import Board, Place
from neffd.compiles.keeper import Directory, Keeper
from neffd.compiles.ledger import Ledger
from neffd.compiles.stale import StaleLocks
from neffd.compiles.usual import Usual
from neffd.config_sections import LocksConfig
from neffd.managed import ManagedRoot
from neffd.metrics import Metrics
from neffd.store.database import Database
from neffd.store.index import Index
from neffd.tasks import Tasks


def keeper_of(
    roots: Sequence[ManagedRoot],
    config: LocksConfig,
    database: Database,
    index: Index,
    tasks: Tasks,
    metrics: Metrics,
    workers: Executor,
    *,
    on_compiled: Callable[[Place, int, int, float | None], None],
    on_lock_removed: Callable[[Place, str], None],
    usual: Usual,
    clock: Callable[[], float],
) -> Keeper:
    """The keeper of these cache directories; see `Keeper` and `StaleLocks` for the arguments."""
    directories = {
        str(managed.root.path): Directory(managed.root, managed.collector.locked, managed.fetcher.nudge)
        for managed in roots
    }
    problems = {str(managed.root.path): managed.problems for managed in roots}
    stale = StaleLocks(
        problems, tasks, metrics, workers, clears=config.clear_stale, clock=clock, on_removed=on_lock_removed
    )
    return Keeper(
        directories,
        Board(config.max_waiters_per_uid, clock),
        Ledger(database),
        stale,
        workers,
        is_own_lock=index.is_own_lock,
        on_compiled=on_compiled,
        usual=usual,
        clock=clock,
    )
