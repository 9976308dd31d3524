"""The Neuron stack of an environment: versions of what builds and compiles graphs, from the packages' own metadata.

Nothing of it is imported. Another Python's packages are found by its path, for `neff run` comes from any environment.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence

from neff.handlers import pass_on

# What builds the graph: another version of these may build another one.
PACKAGES = (
    "jax",
    "jax-neuronx",
    "neuronx-distributed",
    "neuronx-distributed-inference",
    "neuronx-distributed-training",
    "optimum-neuron",
    "torch",
    "torch-neuronx",
    "torch-xla",
    "transformers",
    "transformers-neuronx",
    "vllm",
    "vllm-neuron",
)
COMPILER = "neuronx-cc"
# The instance's type, as EC2 states it.
_PRODUCT_NAME = "/sys/devices/virtual/dmi/id/product_name"
_TARGETS = {"inf2": "inf2", "trn1": "trn1", "trn1n": "trn1", "trn2": "trn2", "trn2u": "trn2", "trn3": "trn3"}
_SEPARATORS = re.compile(r"[-_.]+")
_PYTHON = re.compile(r"python(\d+\.\d+)?$|python(\d+)$")
_SHEBANG_BYTES = 1_024


def versions(names: Iterable[str], python: str | None = None) -> dict[str, str]:
    """Versions of those of the packages that are installed.

    Args:
        python: a Python, or a script that one runs, whose packages are meant. Default: this process's.

    Raises:
        ValueError: it is none.
    """
    import importlib.metadata  # only here: no trainer without a run key pays for it

    path = search_path(python) if python else sys.path
    if not path:
        raise ValueError(f"{python} is neither a Python with packages, nor a script that one runs")
    found: dict[str, str] = {}
    for name in sorted({normal_name(name) for name in names}):
        try:
            first = next(iter(importlib.metadata.distributions(name=name, path=list(path))), None)
            version = None if first is None else first.version
        except Exception as error:  # a package whose metadata is broken has no version that could be told
            pass_on(error)
            continue
        if isinstance(version, str) and version:
            found[name] = version
    return found


def normal_name(package: str) -> str:
    """A package's name in its one spelling."""
    return _SEPARATORS.sub("-", package).lower()


def host_target() -> str | None:
    """What this host's accelerators are called, or None where it is no Neuron instance."""
    try:
        with open(_PRODUCT_NAME, encoding="ascii", errors="replace") as file:
            return _TARGETS.get(file.read(100).strip().partition(".")[0])
    except OSError as error:
        pass_on(error)
        return None


def search_path(command: str, environ: Mapping[str, str] | None = None) -> Sequence[str]:
    """Where the Python that `command` is, or that runs it, looks for packages; nothing where that cannot be seen."""
    import shutil

    environ = os.environ if environ is None else environ
    found = shutil.which(command, path=environ.get("PATH"))
    python = None if found is None else _interpreter(os.path.abspath(found), environ)
    if python is None:
        return []
    own = [part for part in environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    return own + _packages_of(python)


def _interpreter(path: str, environ: Mapping[str, str]) -> str | None:
    """`path` itself if it is a Python, else the one that its first line names."""
    if _PYTHON.search(os.path.basename(path)):
        return path
    try:
        with open(path, "rb") as file:
            line = file.read(_SHEBANG_BYTES).partition(b"\n")[0]
    except OSError:
        return None
    words = os.fsdecode(line[2:]).split() if line.startswith(b"#!") else []
    if words and os.path.basename(words[0]) == "env":
        import shutil

        names = [word for word in words[1:] if not word.startswith("-")]
        words = [shutil.which(names[0], path=environ.get("PATH")) or ""] if names else []
    return words[0] if words and _PYTHON.search(os.path.basename(words[0])) else None


def _packages_of(python: str) -> list[str]:
    """The package directories of a virtual environment, with those below it where it says so, or of an installation."""
    prefix = os.path.dirname(os.path.dirname(python))
    settings = _settings(os.path.join(prefix, "pyvenv.cfg"))
    paths = _directories(prefix, python)
    if settings.get("include-system-site-packages", "").lower() == "true" and settings.get("home"):
        paths += _directories(os.path.dirname(settings["home"]), python)
    return paths


def _directories(prefix: str, python: str) -> list[str]:
    match = _PYTHON.search(os.path.basename(os.path.realpath(python)))
    version = match[1] if match is not None and match[1] else None
    roots = [prefix, os.path.join(prefix, "local")] if prefix == "/usr" else [prefix]
    found = []
    for library in (os.path.join(root, name) for root in reversed(roots) for name in ("lib", "lib64")):
        for name in _sorted_names(library):
            if name == "python3" or (name == f"python{version}" if version else name.startswith("python3.")):
                packages = (os.path.join(library, name, kind) for kind in ("site-packages", "dist-packages"))
                found += [path for path in packages if os.path.isdir(path)]
    return found


def _sorted_names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory), reverse=True)
    except OSError:
        return []


def _settings(path: str) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            pairs = (line.partition("=") for line in file)
            return {name.strip().lower(): value.strip() for name, _, value in pairs}
    except OSError:
        return {}
