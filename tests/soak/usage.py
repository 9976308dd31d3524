"""What a process uses: open files, threads, tasks, resident memory; and how memory changes over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench.measure import resident_mb

SETTLED_AT_S = 600.0
# Less than this of an hour says nothing about an hour.
_SHORTEST_S = 1200.0
MOST_MB_PER_HOUR = 1.0


class Usage(NamedTuple):
    """One sample of one process."""

    at_s: float
    files: int
    threads: int
    tasks: int
    memory_mb: float


def sample(pid: int, tasks: int, at_s: float) -> Usage:
    """Look at a process through /proc; `tasks` is what it says itself."""
    proc = Path(f"/proc/{pid}")
    files, threads = (len(list((proc / part).iterdir())) for part in ("fd", "task"))
    return Usage(at_s, files, threads, tasks, resident_mb(pid))


def at_rest(samples: Sequence[Usage]) -> Usage:
    """The least of each of samples that were taken while nobody asked for anything."""
    return samples[-1]._replace(
        files=min(seen.files for seen in samples),
        threads=min(seen.threads for seen in samples),
        tasks=min(seen.tasks for seen in samples),
    )


def growth_mb_per_hour(samples: Sequence[Usage]) -> float | None:
    """Slope of resident memory by least squares, from ten minutes on; None where that is too short to tell."""
    settled = [seen for seen in samples if seen.at_s >= SETTLED_AT_S]
    if len(settled) < 3 or settled[-1].at_s - settled[0].at_s < _SHORTEST_S:
        return None
    mean_at = sum(seen.at_s for seen in settled) / len(settled)
    mean_mb = sum(seen.memory_mb for seen in settled) / len(settled)
    above = sum((seen.at_s - mean_at) * (seen.memory_mb - mean_mb) for seen in settled)
    below = sum((seen.at_s - mean_at) ** 2 for seen in settled)
    return 3600 * above / below
