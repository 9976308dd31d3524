"""What the daemon counts. The one table of metrics; `/metrics` renders it, `/status` reads from it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


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
        self.scans = Counter("neffd_scans", "Scans of cache directories.", ["why"], registry=self.registry)
        self.connections = Gauge("neffd_connections", "Clients connected now.", registry=self.registry)
        self.journal_waiting = Gauge(
            "neffd_journal_waiting", "Entries that still have to reach a remote.", ["remote"], registry=self.registry
        )

    def value(self, sample: str, **labels: str) -> float:
        """The present value of one sample, 0 if it was never touched."""
        return self.registry.get_sample_value(sample, labels) or 0.0

    def _remote_counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, ["remote"], registry=self.registry)
