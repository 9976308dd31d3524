"""What the daemon counts. The one table of metrics; `/metrics` renders it, `/status` reads from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

if TYPE_CHECKING:
    from neffd.breaker import Breaker

M = TypeVar("M")


class _Row(Generic[M]):
    """One row of the table; on an instance of `Metrics`, the metric itself."""

    def __init__(self, kind: Callable[..., M], name: str, text: str, labels: tuple[str, ...], **options: Any) -> None:
        self._kind = kind
        self._name = name
        self._text = text
        self._labels = labels
        self._options = options

    def make(self, registry: CollectorRegistry) -> M:
        """A metric of its own for one registry."""
        return self._kind(self._name, self._text, self._labels, registry=registry, **self._options)

    def __get__(self, metrics: Metrics, owner: type[Metrics]) -> M:
        """For type checkers: instances hold what `make` made under the same name, which comes first."""
        raise AttributeError(self._name)


def _counter(name: str, text: str, *labels: str) -> _Row[Counter]:
    return _Row(Counter, name, text, labels)


def _gauge(name: str, text: str, *labels: str) -> _Row[Gauge]:
    return _Row(Gauge, name, text, labels)


def _histogram(name: str, text: str, buckets_s: tuple[float, ...]) -> _Row[Histogram]:
    return _Row(Histogram, name, text, (), buckets=buckets_s)


class Metrics:
    """The counters of one daemon, in a registry of their own so that several daemons fit into one test process."""

    questions = _counter(
        "neffd_questions", "Keys asked by clients, by final answer and, for absent ones, its reason.", "state", "reason"
    )
    answer_s = _histogram(
        "neffd_answer_seconds",
        "Time from a question's line to its last answer.",
        buckets_s=(0.0001, 0.001, 0.01, 0.1, 1, 3, 10, 60, 600),
    )
    fetched_entries = _counter("neffd_fetched_entries", "Entries fetched and placed.", "remote")
    fetched_bytes = _counter("neffd_fetched_bytes", "Bytes of entries fetched and placed.", "remote")
    saved_s = _counter(
        "neffd_saved_seconds", "Compile time that runs were spared by what a remote held, where it is known.", "remote"
    )
    prefetched_bytes = _counter("neffd_prefetched_bytes", "Brought before a run asked for it.", "source")
    prefetch_used_bytes = _counter("neffd_prefetch_used_bytes", "Of that, what a run then used.", "source")
    prefetch_wasted_bytes = _counter(
        "neffd_prefetch_wasted_bytes", "Of that, what a run had not used when it ended.", "source"
    )
    published_entries = _counter("neffd_published_entries", "Entries a remote confirmed as stored.", "remote")
    published_bytes = _counter("neffd_published_bytes", "Bytes of entries a remote confirmed.", "remote")
    already_there = _counter("neffd_already_there", "Own entries that a remote held before.", "remote")
    refused = _counter("neffd_refused", "Copies on a remote that failed verification.", "remote", "reason")
    suspicious = _counter(
        "neffd_suspicious", "Fetched entries that look odd but were used: flags hash or NEFF header do not fit.", "what"
    )
    remote_failures = _counter(
        "neffd_remote_failures", "Calls to a remote that it could not answer.", "remote", "reason"
    )
    not_pushed = _counter("neffd_not_pushed", "Ready local entries that are not shared, by reason.", "reason")
    failed_compiles = _counter(
        "neffd_failed_compiles",
        "Failed compiles found in cache directories, by what was done and by what their log tells.",
        "action",
        "reason",
    )
    stale_locks = _counter("neffd_stale_locks_cleared", "Locks removed because their maker is gone.")
    waits = _counter("neffd_waits", "Waits of trainers for another process's compile, by how they ended.", "end")
    client_failures = _counter(
        "neffd_client_failures",
        "Questions that trainers could not put to the daemon, told at their next greeting.",
        "reason",
    )
    scans = _counter("neffd_scans", "Scans of cache directories.", "why")
    stalls = _counter(
        "neffd_stalls",
        "Parts of the daemon that gave no sign of life for too long: event-loop, database, workers, scan.",
        "part",
    )
    evicted_entries = _counter("neffd_evicted_entries", "Entries removed to make room.")
    evicted_bytes = _counter("neffd_evicted_bytes", "Bytes of entries removed to make room.")
    cache_bytes = _gauge("neffd_cache_bytes", "Size of all entries of a cache directory.", "cache_dir")
    cache_entries = _gauge("neffd_cache_entries", "Entries of a cache directory, in whatever state.", "cache_dir")
    cache_free_bytes = _gauge("neffd_cache_free_bytes", "What is free on its file system.", "cache_dir")
    not_evicted = _gauge(
        "neffd_not_evicted",
        "Entries that had to stay when there was too much, by reason; 0 while there is room.",
        "cache_dir",
        "reason",
    )
    connections = _gauge("neffd_connections", "Clients connected now.")
    limits_met = _counter("neffd_limits_met", "Times that a user was beyond a limit, by which.", "reason")
    tasks = _gauge("neffd_tasks", "Tasks of the event loop that have not ended.")
    journal_waiting = _gauge(
        "neffd_journal_waiting", "Entries that are sent to a remote as soon as that is possible.", "remote"
    )
    _parked = _gauge(
        "neffd_journal_parked",
        "Entries that are kept for a remote and not sent, mostly until somebody acts: `neff status` has the reasons.",
        "remote",
    )

    manifests_read = _counter("neffd_manifests_read", "Run manifests read from a remote.", "remote")
    manifests_refused = _counter(
        "neffd_manifests_refused",
        "Files among a remote's run manifests that are none, or not to be used.",
        "remote",
        "reason",
    )
    manifests_published = _counter("neffd_manifests_published", "Run manifests that a remote confirmed.", "remote")
    manifests_given_up = _counter(
        "neffd_manifests_given_up", "Run manifests that a remote refused several times.", "remote", "reason"
    )
    manifests_waiting = _gauge("neffd_manifests_waiting", "Runs of which a remote has still to be told.", "remote")
    _breakers = _gauge(
        "neffd_remote_breaker",
        "Whether a remote is given a rest on that side: 0 closed, 1 half-open, 2 open.",
        "remote",
        "side",
    )

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        rows = {attribute: row for attribute, row in vars(Metrics).items() if isinstance(row, _Row)}
        vars(self).update({attribute: row.make(self.registry) for attribute, row in rows.items()})

    def watch_breaker(self, remote: str, side: str, breaker: Breaker) -> None:
        """Show the state of one side of a remote, as it is when somebody looks."""
        self._breakers.labels(remote, side).set_function(lambda: breaker.state.level)

    def watch_parked(self, remote: str, count: Callable[[], int]) -> None:
        """Show how many entries a remote does not get, as it is when somebody looks."""
        self._parked.labels(remote).set_function(count)

    def value(self, sample: str, **labels: str) -> float:
        """The present value of one sample, 0 if it was never touched."""
        return self.registry.get_sample_value(sample, labels) or 0.0
