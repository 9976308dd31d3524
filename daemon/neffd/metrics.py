"""What the daemon counts. The one table of metrics; `/metrics` renders it, `/status` reads from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

if TYPE_CHECKING:
    from neffd.breaker import Breaker


class Metrics:
    """The counters of one daemon, in a registry of their own so that several daemons fit into one test process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.questions = Counter(
            "neffd_questions",
            "Keys asked by clients, by final answer and, for absent ones, its reason.",
            ["state", "reason"],
            registry=self.registry,
        )
        self.answer_s = Histogram(
            "neffd_answer_seconds",
            "Time from a question's line to its last answer.",
            buckets=(0.0001, 0.001, 0.01, 0.1, 1, 3, 10, 60, 600),
            registry=self.registry,
        )
        self.fetched_entries = self._remote_counter("neffd_fetched_entries", "Entries fetched and placed.")
        self.fetched_bytes = self._remote_counter("neffd_fetched_bytes", "Bytes of entries fetched and placed.")
        self.saved_s = self._remote_counter(
            "neffd_saved_seconds", "Compile time that runs were spared by what a remote held, where it is known."
        )
        self.prefetched_bytes = self._source_counter("neffd_prefetched_bytes", "Brought before a run asked for it.")
        self.prefetch_used_bytes = self._source_counter("neffd_prefetch_used_bytes", "Of that, what a run then used.")
        self.prefetch_wasted_bytes = self._source_counter(
            "neffd_prefetch_wasted_bytes", "Of that, what a run had not used when it ended."
        )
        self.published_entries = self._remote_counter(
            "neffd_published_entries", "Entries a remote confirmed as stored."
        )
        self.published_bytes = self._remote_counter("neffd_published_bytes", "Bytes of entries a remote confirmed.")
        self.already_there = self._remote_counter("neffd_already_there", "Own entries that a remote held before.")
        self.refused = Counter(
            "neffd_refused",
            "Copies on a remote that failed verification.",
            ["remote", "reason"],
            registry=self.registry,
        )
        self.suspicious = Counter(
            "neffd_suspicious",
            "Fetched entries that look odd but were used: flags hash or NEFF header do not fit.",
            ["what"],
            registry=self.registry,
        )
        self.remote_failures = Counter(
            "neffd_remote_failures",
            "Calls to a remote that it could not answer.",
            ["remote", "reason"],
            registry=self.registry,
        )
        self.not_pushed = Counter(
            "neffd_not_pushed",
            "Ready local entries that are not shared, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.failed_compiles = Counter(
            "neffd_failed_compiles",
            "Failed compiles found in cache directories, by what was done and by what their log tells.",
            ["action", "reason"],
            registry=self.registry,
        )
        self.stale_locks = Counter(
            "neffd_stale_locks_cleared", "Locks removed because their maker is gone.", registry=self.registry
        )
        self.waits = Counter(
            "neffd_waits",
            "Waits of trainers for another process's compile, by how they ended.",
            ["end"],
            registry=self.registry,
        )
        self.client_failures = Counter(
            "neffd_client_failures",
            "Questions that trainers could not put to the daemon, told at their next greeting.",
            ["reason"],
            registry=self.registry,
        )
        self.scans = Counter("neffd_scans", "Scans of cache directories.", ["why"], registry=self.registry)
        self.stalls = Counter(
            "neffd_stalls",
            "Parts of the daemon that gave no sign of life for too long: event-loop, database, workers, scan.",
            ["part"],
            registry=self.registry,
        )
        self.evicted_entries = Counter("neffd_evicted_entries", "Entries removed to make room.", registry=self.registry)
        self.evicted_bytes = Counter(
            "neffd_evicted_bytes", "Bytes of entries removed to make room.", registry=self.registry
        )
        self.cache_bytes = self._cache_gauge("neffd_cache_bytes", "Size of all entries of a cache directory.")
        self.cache_entries = self._cache_gauge(
            "neffd_cache_entries", "Entries of a cache directory, in whatever state."
        )
        self.cache_free_bytes = self._cache_gauge("neffd_cache_free_bytes", "What is free on its file system.")
        self.not_evicted = Gauge(
            "neffd_not_evicted",
            "Entries that had to stay when there was too much, by reason; 0 while there is room.",
            ["cache_dir", "reason"],
            registry=self.registry,
        )
        self.connections = Gauge("neffd_connections", "Clients connected now.", registry=self.registry)
        self.tasks = Gauge("neffd_tasks", "Tasks of the event loop that have not ended.", registry=self.registry)
        self.journal_waiting = Gauge(
            "neffd_journal_waiting", "Entries that still have to reach a remote.", ["remote"], registry=self.registry
        )

        self.manifests_read = self._remote_counter("neffd_manifests_read", "Run manifests read from a remote.")
        self.manifests_refused = Counter(
            "neffd_manifests_refused",
            "Files among a remote's run manifests that are none, or not to be used.",
            ["remote", "reason"],
            registry=self.registry,
        )
        self.manifests_published = self._remote_counter(
            "neffd_manifests_published", "Run manifests that a remote confirmed."
        )
        self.manifests_given_up = Counter(
            "neffd_manifests_given_up",
            "Run manifests that a remote refused several times.",
            ["remote", "reason"],
            registry=self.registry,
        )
        self.manifests_waiting = Gauge(
            "neffd_manifests_waiting",
            "Runs of which a remote has still to be told.",
            ["remote"],
            registry=self.registry,
        )
        self._breakers = Gauge(
            "neffd_remote_breaker",
            "Whether a remote is given a rest on that side: 0 closed, 1 half-open, 2 open.",
            ["remote", "side"],
            registry=self.registry,
        )

    def watch_breaker(self, remote: str, side: str, breaker: Breaker) -> None:
        """Show the state of one side of a remote, as it is when somebody looks."""
        self._breakers.labels(remote, side).set_function(lambda: breaker.state.level)

    def value(self, sample: str, **labels: str) -> float:
        """The present value of one sample, 0 if it was never touched."""
        return self.registry.get_sample_value(sample, labels) or 0.0

    def _cache_gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ["cache_dir"], registry=self.registry)

    def _source_counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, ["source"], registry=self.registry)

    def _remote_counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, ["remote"], registry=self.registry)
