"""`neff status --cache_dir`: what a cache directory holds, without asking a daemon."""

from __future__ import annotations

import argparse
from collections import defaultdict

from neff import exitcodes
from neffd.commands import localcache, output

JSON = {
    "cache_dir": "the directory",
    "size_bytes": "of all entries",
    "compiler_versions": "version, and whether it is current (null where no neuronx-cc is installed)",
    "states": "by state (ready, compiling, failed, pending, empty, traced): entries (their number), size_bytes",
}


def run(args: argparse.Namespace) -> int:
    """Print it; returns the exit code."""
    root = localcache.root_of(args.cache_dir)
    current = localcache.installed_compiler()
    states: dict[str, dict[str, int]] = defaultdict(lambda: {"entries": 0, "size_bytes": 0})
    versions = []
    for namespace in reversed(localcache.namespaces(root)):
        is_current = None if current is None else localcache.is_of_version(namespace, current)
        versions.append({"version": namespace.removeprefix("neuronxcc-"), "is_current": is_current})
        for entry in localcache.entries(root, namespace):
            states[entry.state]["entries"] += 1
            states[entry.state]["size_bytes"] += entry.size_bytes
    total_bytes = sum(state["size_bytes"] for state in states.values())
    if args.json:
        facts = {"size_bytes": total_bytes, "compiler_versions": versions, "states": states}
        output.print_json("status", cache_dir=str(root), **facts)
        return exitcodes.OK
    print(f"{root}: {output.size(total_bytes)}")
    for version in versions:
        age = {True: "  (current)", False: "  (old)", None: ""}[version["is_current"]]  # type: ignore[index]
        print(f"  compiler {version['version']}{age}")
    for state, counted in sorted(states.items()):
        print(f"  {state}: {counted['entries']}, {output.size(counted['size_bytes'])}")
    return exitcodes.OK
