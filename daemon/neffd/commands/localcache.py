"""What a cache directory on this host holds, looked at without a daemon and without changing anything."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from neff import exitcodes, keys
from neff.cachedir import cache_root, local_path
from neff.protocol import safe_text
from neffd.commands.errors import CommandError
from neffd.layouts import xla
from neffd.runs import layout
from neffd.store import fsops

TRACED = "traced"
_MODULE_PREFIX = "MODULE_"
_COMPILERS = ("neuronx-cc", "neuron-cc")


@dataclass(frozen=True)
class LocalEntry:
    """One folder `MODULE_…`.

    Args:
        state: as `neff status` calls it, or `traced` for an exported model as a whole.
        locks: names of its lock files.
    """

    path: Path
    namespace: str
    state: str
    size_bytes: int
    locks: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return self.path.name


def root_of(given: str | None, *, make: bool = False) -> Path:
    """The cache directory: the given one, else that of the Neuron tools; raises CommandError where there is none.

    Args:
        make: make the Neuron tools' own where nothing was compiled yet.
    """
    path = local_path(given) if given is not None else cache_root()
    if path is None:
        raise CommandError("the cache is no directory of this host: NEURON_COMPILE_CACHE_URL", "--cache_dir DIR")
    root = Path(path).resolve()
    if make and given is None:
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CommandError(f"{root}: {error.strerror}", "NEURON_COMPILE_CACHE_URL=DIR") from error
    if not _is_directory(root):
        raise CommandError(f"{root} is no directory: nothing was compiled here", "--cache_dir DIR", exitcodes.NOT_FOUND)
    return root


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error


def namespaces(root: Path) -> list[str]:
    """Compiler versions in a cache directory, sorted; links are none. Raises CommandError where it cannot be listed."""
    try:
        names = [path.name for path in root.iterdir() if keys.is_namespace(path.name) and fsops.is_folder(path)]
    except OSError as error:
        raise CommandError(f"{root}: {error.strerror}") from error
    return sorted(names, key=lambda name: (keys.compiler_version(name), name))


def entries(root: Path, namespace: str) -> Iterator[LocalEntry]:
    """As `listed_entries`; a version that cannot be listed is named on stderr, and counts as empty."""
    try:
        yield from listed_entries(root, namespace)
    except OSError as error:
        print(f"neff: {safe_text(root / namespace)}: {error.strerror}: counts as empty", file=sys.stderr)


def listed_entries(root: Path, namespace: str) -> Iterator[LocalEntry]:
    """Everything compiled, or begun, for one compiler version; an entry that we may not read counts as empty.

    Raises OSError where the version as a whole cannot be listed.
    """
    for path in _module_folders(root / namespace):
        if not keys.is_module_key(path.name):
            yield LocalEntry(path, namespace, TRACED, tree_bytes(path))
            continue
        sizes_bytes = dict(_regular_files(path))
        locks = tuple(name for name in sizes_bytes if name.endswith(xla.LOCK_SUFFIX))
        yield LocalEntry(path, namespace, xla.state(namespace, sizes_bytes).value, sum(sizes_bytes.values()), locks)


def _module_folders(folder: Path) -> list[Path]:
    try:
        found = sorted(folder.iterdir())
    except FileNotFoundError:  # it has just been removed
        return []
    return [path for path in found if path.name.startswith(_MODULE_PREFIX) and fsops.is_folder(path)]


def traced_models(root: Path, namespace: str) -> dict[str, str]:
    """The model of each traced one's folder, from the local registry."""
    registry = root / layout.registry(namespace)
    models: dict[str, str] = {}
    for folder, _, files in os.walk(registry):
        for file in files:
            path = layout.parse(os.path.relpath(os.path.join(folder, file), root))  # noqa: PTH118 - a walk's strings
            if path is not None and path.model_id:
                models[f"{_MODULE_PREFIX}{path.hash}"] = path.model_id
    return models


def tree_bytes(folder: Path) -> int:
    """Size of all regular files below a folder; links are not followed."""
    total = 0
    for where, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):
                facts = (Path(where) / file).lstat()
                total += facts.st_size
    return total


def installed_compiler() -> str | None:
    """Version of the neuronx-cc of this environment."""
    try:
        return importlib.metadata.version("neuronx-cc")
    except importlib.metadata.PackageNotFoundError:
        return None


def trainers_compiler() -> str | None:
    """Version of the neuronx-cc of this environment, else of that of the `python3` on PATH: neff may have its own."""
    from neff.runs import stack

    if (own := installed_compiler()) is not None:
        return own
    with contextlib.suppress(ValueError):  # there is no python3
        return stack.versions([stack.COMPILER], "python3").get(stack.COMPILER)
    return None


def is_of_version(namespace: str, version: str) -> bool:
    """Whether `2.21`, `2.21.33363.0` or the whole name means this namespace; `2.2` does not mean 2.21."""
    name, version = namespace.removeprefix("neuronxcc-"), version.removeprefix("neuronxcc-")
    return name == version or (name.startswith(version) and name[len(version)] in ".+")


def running_compilers() -> list[int]:
    """Processes that run neuronx-cc, as far as they can be seen."""
    processes = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [int(process.name) for process in processes if _runs_compiler(process)]


def _runs_compiler(process: Path) -> bool:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")[:3]
    except OSError:  # it has ended
        return False
    return any(os.fsdecode(word).rpartition("/")[2] in _COMPILERS for word in words)


def _regular_files(folder: Path) -> Iterator[tuple[str, int]]:
    try:
        with os.scandir(folder) as found:
            for item in found:
                if item.is_file(follow_symlinks=False):
                    yield item.name, item.stat(follow_symlinks=False).st_size
    except OSError:
        return
