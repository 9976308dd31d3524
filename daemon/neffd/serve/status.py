"""Pieces of the status document: counters as plain numbers, and problems that were said once."""

from __future__ import annotations

import logging
from typing import Any

from neffd.metrics import Metrics

log = logging.getLogger(__name__)

_FATAL = ("disk",)
_MOST = 50


class Problems:
    """What is wrong with one cache directory: logged when it first appears, shown until it is over.

    Problems with the same remedy are one problem, however many entries meet it; the first one is the example.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._noted: dict[tuple[str, str], str] = {}

    def note(self, reason: str, detail: str, hint: str) -> None:
        """Say a problem; the same one is said once."""
        if (reason, hint) in self._noted or len(self._noted) >= _MOST:
            return
        self._noted[reason, hint] = detail
        log.warning("%s: %s: %s%s", self._where, reason, detail, f" (try: {hint})" if hint else "")

    def over(self, reason: str, hint: str | None = None) -> None:
        """What failed for `reason` works again; with `hint` only the problem that had this remedy."""
        ended = {key for key in self._noted if key[0] == reason and hint in (None, key[1])}
        if ended:
            log.info("%s: %s: over", self._where, reason)
            self._noted = {key: detail for key, detail in self._noted.items() if key not in ended}

    def fatal(self) -> list[str]:
        """Those that keep the daemon from its work."""
        return [f"{reason}: {detail}" for (reason, _), detail in self._noted.items() if reason in _FATAL]

    def status(self) -> list[dict[str, str]]:
        """For the status document."""
        return [{"reason": reason, "detail": detail, "hint": hint} for (reason, hint), detail in self._noted.items()]


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
