"""Pieces of the status document: counters as plain numbers, and problems that were said once."""

from __future__ import annotations

import logging
from typing import Any

from neffd.metrics import Metrics

log = logging.getLogger(__name__)

_FATAL = ("disk",)


class Problems:
    """What is wrong with one cache directory: logged when it first appears, shown until the daemon ends."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._noted: dict[tuple[str, str], str] = {}

    def note(self, reason: str, detail: str, hint: str) -> None:
        """Say a problem; the same one is said once."""
        if (reason, detail) in self._noted:
            return
        self._noted[reason, detail] = hint
        log.warning("%s: %s: %s%s", self._where, reason, detail, f" (try: {hint})" if hint else "")

    def fatal(self) -> list[str]:
        """Those that keep the daemon from its work."""
        return [f"{reason}: {detail}" for reason, detail in self._noted if reason in _FATAL]

    def status(self) -> list[dict[str, str]]:
        """For the status document."""
        return [{"reason": reason, "detail": detail, "hint": hint} for (reason, detail), hint in self._noted.items()]


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
