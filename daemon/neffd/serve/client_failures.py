"""What trainers could not ask, and why: told with their next greeting, counted here by reason."""

from __future__ import annotations

from typing import Any

from neffd.metrics import Metrics

# A client's words become labels: only those that are known.
REASONS = frozenset(
    {
        "no-daemon",
        "no-permission",
        "silent",
        "lost",
        "garbage",
        "unsupported",
        "stopping",
        "gave-up",
        "too-slow",
        "internal-error",
    }
)
_OTHER = "other"
_MOST = 1_000_000


def count_failures(metrics: Metrics, failures: Any) -> None:
    """Add a greeting's `failures`, an object of counts by reason; whatever else it is counts nothing."""
    if not isinstance(failures, dict):
        return
    for reason, count in list(failures.items())[: 2 * len(REASONS)]:
        if type(count) is int and 0 < count <= _MOST:
            metrics.client_failures.labels(reason if reason in REASONS else _OTHER).inc(count)
