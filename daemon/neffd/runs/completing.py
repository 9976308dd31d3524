"""What a run used, as it is told to others: what is there, with sizes and compile times. Blocking."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from neff.keys import ModuleName
from neffd.runs.manifests import Manifest, UsedModule
from neffd.runs.recorder import Used
from neffd.store.index import Index
from neffd.store.root import CacheRoot


def complete(
    manifest: Manifest, used: Mapping[ModuleName, Used], roots: Mapping[str, CacheRoot], index: Index
) -> Manifest:
    """Without what is not there, with sizes and compile times as they are known by now.

    Args:
        used: the modules of the run, which tell where each was used.
        roots: the cache directories by path.
    Raises sqlite3.Error, OSError.
    """
    seconds = {path: index.compile_seconds(root.path) for path, root in roots.items()}
    modules = []
    for module in manifest.modules:
        name = ModuleName(manifest.namespace, module.key)
        root = roots.get(used[name].root)
        if root is not None and root.is_ready(name):
            compile_s = module.compile_s or seconds[str(root.path)].get(name)
            modules.append(UsedModule(module.key, _size_bytes(root.entry(name)), compile_s))
    return Manifest(manifest.namespace, manifest.run_key, manifest.ingredients, tuple(modules))


def _size_bytes(folder: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            total += file.lstat().st_size
    return total
