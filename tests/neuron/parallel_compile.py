"""The compile phase of neuron_parallel_compile: what the cache holds as bare graphs, compiled by a process pool."""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass

from libneuronxla.neuron_cc_cache import CacheUrl, create_compile_cache
from libneuronxla.neuron_cc_wrapper import compile_cache_entry


@dataclass(frozen=True)
class Report:
    hlo: str
    status: bool
    retry: int
    compile_time: float
    skipped: bool = False


def compile_one(hlo_path: str, retry_failed: bool = False) -> Report:
    """The lock ends as soon as the NEFF is there, so the module may have been made between look and lock."""
    started = time.monotonic()
    cache = create_compile_cache(CacheUrl.get_cache_url())
    entry = cache.try_lookup_for_compile(hlo_path)
    if entry is None:
        return Report(hlo_path, True, 0, 0.0, skipped=True)
    with tempfile.TemporaryDirectory() as work_dir, entry:
        if entry.exists:
            return Report(hlo_path, True, 0, 0.0, skipped=True)
        try:
            status, retry = compile_cache_entry(
                f"{work_dir}/graph.neff", entry, retry_failed_compilation=retry_failed, work_dir=work_dir
            )
        except subprocess.CalledProcessError:
            status, retry = False, 0
    return Report(hlo_path, status, retry, time.monotonic() - started)


def compile_all(num_parallel: int, *, start_method: str = "fork", retry_failed: bool = False) -> list[Report]:
    cache = create_compile_cache(CacheUrl.get_cache_url())
    todo, locked, done, failed = cache.get_hlos()
    total = sum(map(len, (todo, locked, done, failed)))
    counts = f"locked are {len(locked)}, failed are {len(failed)}, done are {len(done)}, total is {total}"
    print(f"Current remaining items are {len(todo)}, {counts}", file=sys.stderr, flush=True)
    hlos = sorted(todo | failed if retry_failed else todo)
    context = multiprocessing.get_context(start_method)
    with ProcessPoolExecutor(num_parallel, mp_context=context) as pool:
        return list(pool.map(compile_one, hlos, [retry_failed] * len(hlos)))


def main() -> int:
    """The exit code is the number of failures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--start-method", choices=("fork", "spawn", "forkserver"), default="fork")
    parser.add_argument("--retry-failed", action="store_true")
    parser.add_argument("--install-neff", action="store_true", help="neff.install() with the cache imported already")
    arguments = parser.parse_args()
    if arguments.install_neff:
        importlib.import_module("neff").install()
    reports = compile_all(arguments.parallel, start_method=arguments.start_method, retry_failed=arguments.retry_failed)
    print(json.dumps([asdict(report) for report in reports]), flush=True)
    return sum(not report.status for report in reports)


if __name__ == "__main__":
    sys.exit(main())
