"""`make bench`: figures of one host, printed as a table and, with --json, as JSON.

Every comparison runs both sides in one go and is given as a ratio.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.bench.catalogs import bench_catalogs
from tests.bench.eviction import bench_eviction
from tests.bench.hub_reference import bench_hub
from tests.bench.local_hits import bench_local_hits
from tests.bench.lookups import bench_lookups
from tests.bench.measure import Figure
from tests.bench.runs import bench_runs
from tests.bench.start import bench_start
from tests.bench.waits import bench_waits
from tests.bench.ways_down import bench_ways

_BENCHES = {
    "eviction": bench_eviction,
    "hits": bench_local_hits,
    "lookups": bench_lookups,
    "runs": bench_runs,
    "start": bench_start,
    "waits": bench_waits,
    "catalogs": bench_catalogs,
    "hub": bench_hub,
    "ways": bench_ways,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("which", nargs="*", choices=[*_BENCHES, []], help="default: all")
    options = parser.parse_args()
    chosen = [_BENCHES[name] for name in options.which or _BENCHES]
    with tempfile.TemporaryDirectory(prefix="neffd-bench-") as folder:
        figures = [figure for bench in chosen for figure in bench(Path(tempfile.mkdtemp(dir=folder)))]
    print(as_json(figures) if options.json else as_table(figures))
    return 0


def as_json(figures: list[Figure]) -> str:
    return json.dumps([figure._asdict() for figure in figures], indent=2)


def as_table(figures: list[Figure]) -> str:
    width = max(len(figure.what) for figure in figures)
    return "\n".join(f"{figure.what:<{width}}  {figure.value:>10.3f} {figure.unit}" for figure in figures)


if __name__ == "__main__":
    sys.exit(main())
