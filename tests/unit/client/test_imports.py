"""What importing the package costs a trainer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import neff

_LOADED = "import sys; before = set(sys.modules); {}; import json; print(json.dumps(sorted(set(sys.modules) - before)))"
_HEAVY = {"asyncio", "http", "argparse", "logging", "urllib", "ssl", "email", "multiprocessing", "concurrent"}


def _loaded_by(statements: str) -> set[str]:
    output = subprocess.run(
        [sys.executable, "-c", _LOADED.format(statements)], check=True, capture_output=True, text=True
    ).stdout
    return {name.partition(".")[0] for name in json.loads(output)}


def test_importing_neff_loads_the_standard_library_only_and_nothing_heavy() -> None:
    foreign = _loaded_by("import neff") - sys.stdlib_module_names
    assert foreign == {"neff"}
    assert not _loaded_by("import neff") & _HEAVY


def test_installing_the_hook_loads_the_standard_library_only_and_nothing_heavy() -> None:
    loaded = _loaded_by("import neff; assert neff.install()")
    assert loaded - sys.stdlib_module_names == {"neff"}
    assert not loaded & _HEAVY


def test_the_command_line_is_loaded_by_the_command_only() -> None:
    assert "argparse" in _loaded_by("import neff.cli")


def test_public_names() -> None:
    assert neff.__all__ == ["__version__", "install", "run_key", "session", "uninstall"]
    assert all(hasattr(neff, name) for name in neff.__all__)


def test_a_trainers_type_checker_sees_the_types() -> None:
    assert (Path(neff.__file__).parent / "py.typed").is_file()
