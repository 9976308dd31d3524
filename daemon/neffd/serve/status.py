"""Pieces of the status document: counters as plain numbers, and problems that were said once."""

from __future__ import annotations

import logging
from typing import Any

from neffd.metrics import Metrics

log = logging.getLogger(__name__)

# Full as the system says, or as `store.min_free_bytes` does, which comes first: nothing is fetched either way.
_FATAL = ("disk", "disk-nearly-full", "scan-stuck")
_MOST_OF_A_REASON = 50
_MOST_SUBJECTS = 10_000


class Problems:
    """What is wrong with one cache directory: logged when it first appears, shown until it is over.

    Problems with the same remedy are one problem, however many subjects (entries, say) meet it; one of them is the
    example. It is over when it is over for the last of them.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._noted: dict[tuple[str, str], dict[str, str]] = {}  # details by subject

    def note(self, reason: str, detail: str, hint: str, subject: str = "") -> None:
        """Say a problem that `subject` has; the same one is said once, whoever has it, and shown as it is now."""
        details = self._noted.get((reason, hint))
        if details is not None:
            if subject in details or len(details) < _MOST_SUBJECTS:
                details[subject] = detail
        elif sum(noted == reason for noted, _ in self._noted) < _MOST_OF_A_REASON:
            self._noted[reason, hint] = {subject: detail}
            log.warning("%s: %s: %s%s", self._where, reason, detail, f" (try: {hint})" if hint else "")

    def over(self, reason: str, hint: str | None = None, subject: str | None = None) -> None:
        """What failed for `reason` works again.

        Args:
            hint: only the problem that had this remedy; any where it is None.
            subject: only for this one; for all where it is None.
        """
        for key in [key for key in self._noted if key[0] == reason and hint in (None, key[1])]:
            details = self._noted[key]
            if subject is not None:
                details.pop(subject, None)
            if subject is None or not details:
                del self._noted[key]
                log.info("%s: %s: over", self._where, reason)

    def fatal(self) -> list[str]:
        """Those that keep the daemon from its work."""
        return [f"{reason}: {detail}" for reason, _, detail in self._shown() if reason in _FATAL]

    def status(self) -> list[dict[str, str]]:
        """For the status document."""
        return [{"reason": reason, "detail": detail, "hint": hint} for reason, hint, detail in self._shown()]

    def _shown(self) -> list[tuple[str, str, str]]:
        return [(*key, next(iter(details.values()))) for key, details in self._noted.items()]


def counters(metrics: Metrics) -> dict[str, Any]:
    """Every counter and gauge by name: a number, or numbers by `label=value,…`."""
    found: dict[str, Any] = {}
    for family in metrics.registry.collect():
        if family.type not in ("counter", "gauge"):
            continue
        samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
        by_label = {
            ",".join(f"{key}={value}" for key, value in sample.labels.items()): sample.value for sample in samples
        }
        found[family.name] = by_label.get("", by_label)
    return found
