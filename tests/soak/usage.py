"""What a process uses: open files, threads, resident memory; and how memory changes over time."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tests.bench.measure import resident_mb


class Usage(NamedTuple):
    """One sample of one process."""

    at_s: float
    files: int
    threads: int
    memory_mb: float


def sample(pid: int, at_s: float) -> Usage:
    """Look at a process through /proc."""
    proc = Path(f"/proc/{pid}")
    return Usage(at_s, len(list((proc / "fd").iterdir())), len(list((proc / "task").iterdir())), resident_mb(pid))


def growth_mb_per_hour(samples: list[Usage]) -> float:
    """Slope of resident memory by least squares; 0 for fewer than three samples."""
    if len(samples) < 3:
        return 0.0
    mean_at = sum(seen.at_s for seen in samples) / len(samples)
    mean_mb = sum(seen.memory_mb for seen in samples) / len(samples)
    above = sum((seen.at_s - mean_at) * (seen.memory_mb - mean_mb) for seen in samples)
    below = sum((seen.at_s - mean_at) ** 2 for seen in samples)
    return 3600 * above / below if below else 0.0
