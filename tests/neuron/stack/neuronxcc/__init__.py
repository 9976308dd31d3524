"""Stand-in for the compiler package behind the `neuronx-cc` command."""

from __future__ import annotations

import standin_switches as switches


def __getattr__(name: str) -> str:
    if name == "__version__":
        return switches.compiler_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
