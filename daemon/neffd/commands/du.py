"""`neff du`: what takes how much space in the cache directory."""

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import Any

from neff import exitcodes
from neffd.commands.options import add_json, add_option

EXAMPLE = "neff du --cache_dir /var/tmp/neuron-compile-cache"
JSON = {
    "cache_dir": "the directory",
    "size_bytes": "of all that is listed",
    "rows": "compiler_version, model (of traced models; null for modules, which do not tell whose they are), state "
    "(ready, compiling, failed, pending, empty, traced), entries (their number), size_bytes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_option(parser, "cache_dir", metavar="DIR", help="the cache directory (default: that of the Neuron tools)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from neffd.commands import localcache, output

    root = localcache.root_of(args.cache_dir)
    counts: dict[tuple[str, str | None, str], list[int]] = defaultdict(lambda: [0, 0])
    for namespace in reversed(localcache.namespaces(root)):
        models = localcache.traced_models(root, namespace)
        for entry in localcache.entries(root, namespace):
            row = counts[namespace.removeprefix("neuronxcc-"), models.get(entry.key), entry.state]
            row[0] += 1
            row[1] += entry.size_bytes
    total_bytes = sum(size_bytes for _, size_bytes in counts.values())
    rows: list[dict[str, Any]] = [
        {"compiler_version": version, "model": model, "state": state, "entries": number, "size_bytes": size_bytes}
        for (version, model, state), (number, size_bytes) in counts.items()
    ]
    if args.json:
        output.print_json("du", cache_dir=str(root), size_bytes=total_bytes, rows=rows)
    elif output.is_terminal():
        columns = ("compiler", "model", "state", "entries", "size")
        cells = [(*map(str, (*key[:1], key[1] or "-", key[2], n)), output.size(b)) for key, (n, b) in counts.items()]
        output.print_table(columns, cells, heading=f"{root}: {output.size(total_bytes)}")
    else:
        for row_facts in rows:
            print(output.line(row_facts))
    return exitcodes.OK
