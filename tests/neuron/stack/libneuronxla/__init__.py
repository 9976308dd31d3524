"""Stand-in for AWS's libneuronxla, for tests and the demo."""

from __future__ import annotations

from libneuronxla import version
from libneuronxla.hook import _dump_hlo_snapshot_callback, configure_environment, hook, neuronx_cc
from libneuronxla.neuron_cc_cache import create_compile_cache
from libneuronxla.neuron_cc_wrapper import neuron_xla_compile, neuron_xla_wlo_compile

__all__ = [
    "_dump_hlo_snapshot_callback",
    "configure_environment",
    "create_compile_cache",
    "hook",
    "neuron_xla_compile",
    "neuron_xla_wlo_compile",
    "neuronx_cc",
]


def __getattr__(name: str) -> str:
    if name == "__version__":
        return str(version.__version__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
