from __future__ import annotations

import standin_switches as switches


def __getattr__(name: str) -> str:
    if name == "__version__":
        return switches.text("LIBNEURONXLA_VERSION", "2.2.3493.0+78c3e78c")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
