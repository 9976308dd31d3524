"""`neff run` as a real process, from any directory and with any environment."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import neff

CLIENT = Path(neff.__file__).resolve().parents[1]
SITE = CLIENT / "neff" / "launch" / "site"
_MAIN = f"import sys; sys.path[0] = {str(CLIENT)!r}; from neff.cli import main; sys.exit(main())"
TIMEOUT_S = 30
# A run that a test kills leaves its folder behind.
_TEMPORARY = tempfile.TemporaryDirectory(prefix="neff-tests-")
atexit.register(_TEMPORARY.cleanup)


def neff_run(*arguments: str | bytes | Path) -> list[str | bytes]:
    """The words of a `neff run` with these arguments."""
    return [sys.executable, "-c", _MAIN, "run", *(os.fsencode(word) for word in arguments)]


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without Python's and neffd's variables, with the changes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "NEFF", "XDG_"))}
    return kept | {"TMPDIR": _TEMPORARY.name} | changes


def finished(
    words: Sequence[str | bytes], env: Mapping[str, str] | Mapping[bytes, bytes] | None = None, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """The words as a process that has ended."""
    given = environment() if env is None else env
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(words, capture_output=True, check=False, timeout=TIMEOUT_S, env=given, **options)


def python(code: str, *arguments: str, executable: str | Path = sys.executable) -> list[str]:
    """The words of a Python that runs `code`, without its own environment."""
    return [str(executable), "-c", code, *arguments]


def answer_of(done: subprocess.CompletedProcess[bytes]) -> Any:
    """The JSON that a probe wrote; it has to have ended well and in silence."""
    assert (done.returncode, done.stderr) == (0, b"")
    return json.loads(done.stdout)
