"""What all parts of the daemon share: made once at the start, in `service.py`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from neffd.care.care import Care
from neffd.compiles.usual import Usual
from neffd.config import Config
from neffd.fetch.refusals import Refusals
from neffd.limits import Limits
from neffd.metrics import Metrics
from neffd.publish.journal import Journal
from neffd.serve.status import Problems
from neffd.slots import Line
from neffd.store.database import Database
from neffd.store.index import Index
from neffd.tasks import Tasks


@dataclass(frozen=True)
class Resources:
    """`workers` are threads for what blocks, `line` is where fetches wait for their turn, `clock` is monotonic.

    `problems` are those of the daemon itself, not of one cache directory; `usual` is how long compiles take;
    `limits` is what one user may take of all this.
    """

    config: Config
    clock: Callable[[], float]
    metrics: Metrics
    tasks: Tasks
    workers: Executor
    line: Line
    database: Database
    index: Index
    journal: Journal
    refusals: Refusals
    care: Care
    problems: Problems
    usual: Usual
    limits: Limits
