"""Small helpers of the benchmarks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Figure(NamedTuple):
    """One measured number."""

    what: str
    value: float
    unit: str


def latencies_us(call: Callable[[], object], count: int) -> list[float]:
    """Microseconds of each of `count` calls, sorted, after a tenth as many to warm up."""
    for _ in range(count // 10):
        call()
    taken = []
    for _ in range(count):
        began = time.perf_counter_ns()
        call()
        taken.append((time.perf_counter_ns() - began) / 1000)
    return sorted(taken)


def percentiles(what: str, taken_us: list[float]) -> list[Figure]:
    """Median and 99th percentile as figures."""
    return [
        Figure(f"{what}, p50", taken_us[len(taken_us) // 2], "us"),
        Figure(f"{what}, p99", taken_us[len(taken_us) * 99 // 100], "us"),
    ]


def resident_mb(pid: int) -> float:
    """Resident memory of a process in megabytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(f"no VmRSS for {pid}")


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used; unlike time, hardly longer on a busy machine."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
