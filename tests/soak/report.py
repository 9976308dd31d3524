"""The figures of a run: in words, as JSON, and whether they are what they have to be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.soak.judge import Violation, by_kind
from tests.soak.usage import MOST_MB_PER_HOUR, Usage, growth_mb_per_hour

_EQUAL = ("files", "threads", "tasks")


@dataclass(frozen=True)
class Report:
    """What a run has shown.

    Attributes:
        figures: numbers by name, in the order in which they are told.
        details: what is only in the JSON file.
        samples: of the witness; `first` and `last` at rest, after a minute and at the end, None in a short run.
    """

    figures: Mapping[str, float]
    details: Mapping[str, Any]
    violations: Sequence[Violation]
    samples: Sequence[Usage]
    first: Usage | None
    last: Usage | None

    @property
    def is_good(self) -> bool:
        return not self.violations and not self.leaks

    @property
    def leaks(self) -> list[str]:
        """What the witness has more of than after its first minute."""
        found = []
        if self.first is not None and self.last is not None:
            first, last = self.first._asdict(), self.last._asdict()
            found = [f"{what} {first[what]} -> {last[what]}" for what in _EQUAL if last[what] > first[what]]
        growth = growth_mb_per_hour(self.samples)
        if growth is not None and growth >= MOST_MB_PER_HOUR:
            found.append(f"memory grows by {growth:.2f} MB an hour")
        return found

    def write(self, path: Path) -> None:
        """As JSON."""
        whole = {
            "figures": {**self.figures, **by_kind(self.violations)},
            "witness": {
                "first": self.first and self.first._asdict(),
                "last": self.last and self.last._asdict(),
                "memory_mb_per_hour": growth_mb_per_hour(self.samples),
                "samples": [seen._asdict() for seen in self.samples],
            },
            "violations": [violation.__dict__ for violation in self.violations],
            "leaks": self.leaks,
            **self.details,
        }
        path.write_text(json.dumps(whole, indent=2) + "\n")

    def lines(self) -> list[str]:
        """For people; the figures last."""
        told = [f"BROKEN {one.kind}: {one.what} ({one.where})" for one in self.violations]
        told += [f"BROKEN leak: {leak}" for leak in self.leaks]
        told.append(self._of_witness())
        counts = {**self.figures, **by_kind(self.violations)}
        told.append(", ".join(f"{what} {count:g}" for what, count in counts.items()))
        return told

    def _of_witness(self) -> str:
        growth = growth_mb_per_hour(self.samples)
        slope = "its slope is not judged, the run was too short" if growth is None else f"{growth:+.2f} MB an hour"
        if self.first is None or self.last is None:
            return f"witness: not judged, the run was too short; memory {self.samples[-1].memory_mb:.1f} MB, {slope}"
        first, last = self.first._asdict(), self.last._asdict()
        changes = [f"{what} {first[what]} -> {last[what]}" for what in _EQUAL]
        changes.append(f"memory {first['memory_mb']:.1f} -> {last['memory_mb']:.1f} MB, {slope}")
        return f"witness: {', '.join(changes)}"
