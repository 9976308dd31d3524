"""What the PJRT plug-in calls."""

from __future__ import annotations

import re

from neuronxcc import neff_wrapper

from libneuronxla.libncc import setup_args
from libneuronxla.neuron_cc_wrapper import neuron_xla_compile

_TARGETS = {"1.0": "inf1", "2.0": "trn1", "2.1": "inf2", "3.0": "trn2"}


def neuronx_cc(code: bytes, code_format: bytes, platform_version: bytes, file_prefix: bytes) -> tuple[int, bytes]:
    """(0, serialized wrapper module) or (error, message)."""
    try:
        return 0, _compile(code, code_format.decode(), platform_version.decode(), file_prefix.decode())
    except Exception as error:  # nothing may be raised into the plug-in
        return 1, f"{type(error).__name__}: {error}".encode()


def _compile(code: bytes, code_format: str, platform_version: str, file_prefix: str) -> bytes:
    if code_format != "hlo":
        raise ValueError(f"code format {code_format!r}, only 'hlo' is known")
    wrapper, flags, _ = setup_args()
    neff = neuron_xla_compile(
        code,
        flags,
        platform_target=_TARGETS[platform_version],
        cache_key=_graph_hash(file_prefix),
        retry_failed_compilation=wrapper.retry_failed_compilation,
        use_cache=not wrapper.no_cache,
        cache_dir=wrapper.cache_dir,
        work_dir=wrapper.compile_workdir,
        dump=wrapper.dump,
    )
    return neff_wrapper.wrap(neff, code)


def _graph_hash(file_prefix: str) -> str | None:
    """The decimal 64-bit hash is the last long number of the prefix."""
    numbers = re.findall(r"\d{6,20}", file_prefix)
    return numbers[-1] if numbers else None


def configure_environment() -> None:
    """The real one sets up the runtime; nothing to do without devices."""


def hook() -> None:
    """The real one registers the plug-in."""


def _dump_hlo_snapshot_callback(*_args: object) -> None:
    """Snapshots need a device."""
