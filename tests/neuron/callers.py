"""How each known framework calls into libneuronxla. Needs the stand-in's `stack` directory on the path."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libneuronxla
from libneuronxla.libncc import setup_args
from libneuronxla.neuron_cc_cache import CacheUrl, CompileCache, CompileCacheFs
from neuronxcc import neff_wrapper
from neuronxcc.driver import CommandDriver

from tests.neuron.graphs import Graph

TARGETED_SINCE = (2, 16)


@dataclass(frozen=True)
class Compiled:
    key: str
    neff: bytes


def pjrt(graph: Graph, platform_version: str = "2.0") -> Compiled:
    """torch-xla and JAX: the plug-in hands over the graph, flags come from NEURON_CC_FLAGS."""
    prefix = f"MODULE_0_SyncTensorsGraph.{len(graph.data)}_{graph.module_hash}".encode()
    error, result = libneuronxla.neuronx_cc(graph.data, b"hlo", platform_version.encode(), prefix)
    if error:
        raise RuntimeError(result.decode())
    return Compiled(module_key(graph.module_hash, setup_args()[1]), neff_wrapper.unwrap(result))


def nxd_builder(graph: Graph, work_root: Path, *, priority: bool = False) -> Compiled:
    """NxD's model builder: fixed options, the work directory's path is among the hashed flags."""
    work_dir = work_root / graph.name / "_tp0_bk0"
    flags = [
        "--auto-cast=none",
        "--model-type=transformer",
        "--tensorizer-options=--enable-ccop-compute-overlap --cc-pipeline-tiling-factor=2 --vectorize-strided-dma ",
        "--lnc=1",
        "-O1",
        f"--logfile={work_dir}/log-neuron-cc.txt",
    ]
    options: dict[str, Any] = {
        "input_format": "hlo",
        "platform_target": "trn1",
        "cache_key": hash_module(graph.data, flags),
        "retry_failed_compilation": False,
        "lazy": True,
        "use_cache": True,
        "cache_dir": None,
        "work_dir": str(work_dir),
        "create_subdir": False,
    }
    compile_graph: Callable[..., Any] = libneuronxla.neuron_xla_compile
    hashed = list(flags)
    if priority:
        compile_graph = libneuronxla.neuron_xla_wlo_compile
        hashed.append("--enable-internal-neff-wrapper")
    try:
        result = compile_graph(graph.data, flags, **options)
    except TypeError:  # create_subdir came later
        del options["create_subdir"]
        result = compile_graph(graph.data, flags, **options)
    return Compiled(module_key(options["cache_key"], hashed), result[0] if priority else result)


def nxd_functions(graph: Graph) -> bytes:
    """NxD's `functions.compile`: no key, never cached."""
    return libneuronxla.neuron_xla_compile(graph.data, ["--model-type=transformer"], cache_key=None, use_cache=False)


def transformers_neuronx(graph: Graph) -> Compiled:
    """The key leaves the flags out; flags come from NEURON_CC_FLAGS."""
    flags = setup_args()[1] or ["--model-type=transformer", "--auto-cast=none"]
    key = hash_module(graph.data, None)
    return Compiled(module_key(key, flags), libneuronxla.neuron_xla_compile(graph.data, flags, cache_key=key))


def nkipy_in_process(source: Path, output: Path) -> int:
    """NKIPy's optional way: the compiler without its command, so nothing on PATH sees it."""
    return CommandDriver.run(["compile", "--framework=XLA", str(source), "--output", str(output), "--target=trn1"])


def hash_module(hlo: bytes, flags: list[str] | None) -> str:
    """The real one hashes the proto's text form; a text of the bytes serves here."""
    text = hlo.hex() + ("".join(flags).replace(" ", "") if flags is not None else "")
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def module_key(graph_hash: str, flags: list[str], target: str = "trn1") -> str:
    """What the stand-in's current generation makes of a graph hash and the caller's flags."""
    from neuronxcc import __version__ as version

    release = tuple(int(part) for part in version.split(".")[:2])
    hashed = [f"--target={target}", *flags] if release >= TARGETED_SINCE else flags
    return f"MODULE_{graph_hash}+{CompileCache.get_compiler_flags_hash(hashed)}"


class HubProxyCache(CompileCache):
    """optimum-neuron's way: own class, every primitive handed to a `CompileCacheFs` that it made itself."""

    cache_type = "hf"

    def __init__(self, cache_url: CacheUrl, probes: list[str]) -> None:
        super().__init__(cache_url)
        self._local = CompileCacheFs(cache_url)
        self._probes = probes

    def get_cache_dir(self, model_hash: str, compile_flags_str: str) -> Any:
        return self._local.get_cache_dir(model_hash, compile_flags_str)

    def get_cache_dir_with_cache_key(self, key: str) -> str:
        return self._local.get_cache_dir_with_cache_key(key)

    def exists(self, path: str) -> bool:
        """After a local miss the real one asks the Hub; here the question is written down."""
        if self._local.exists(path):
            return True
        self._probes.append(path)
        return False

    def download_file(self, src: str, dst: str) -> None:
        self._local.download_file(src, dst)

    def download_file_to_string(self, path: str, limit: int | None = None) -> str:
        return self._local.download_file_to_string(path, limit)

    def upload_file(self, cache_path: str, src_path: str) -> None:
        self._local.upload_file(cache_path, src_path)

    def upload_string_to_file(self, cache_path: str, data: str) -> None:
        self._local.upload_string_to_file(cache_path, data)

    def remove(self, path: str) -> None:
        self._local.remove(path)

    def hlo_acquire_lock(self, h: str) -> bool:
        return self._local.hlo_acquire_lock(h)

    def hlo_release_lock(self, h: str) -> None:
        self._local.hlo_release_lock(h)

    def get_hlos(self, failed_neff_str: str = "") -> tuple[set[str], set[str], set[str], set[str]]:
        return self._local.get_hlos(failed_neff_str)

    def clean(self) -> None:
        self._local.clean()

    def clear_locks(self) -> None:
        self._local.clear_locks()

    def clear_neffs(self) -> None:
        self._local.clear_neffs()


@contextmanager
def hub_proxy() -> Iterator[list[str]]:
    """Replace the factory in every libneuronxla module, put the stock one back at the end. Yields the Hub questions."""
    probes: list[str] = []

    def factory(cache_url: CacheUrl) -> CompileCache:
        return HubProxyCache(cache_url, probes)

    stock = _patch_everywhere("create_compile_cache", factory)
    try:
        yield probes
    finally:
        for module, attribute in stock:
            setattr(module, "create_compile_cache", attribute)  # noqa: B010


def _patch_everywhere(name: str, value: object) -> list[tuple[Any, object]]:
    modules = [module for path, module in sys.modules.items() if path.split(".")[0] == "libneuronxla"]
    replaced = [(module, getattr(module, name)) for module in modules if hasattr(module, name)]
    for module, _ in replaced:
        setattr(module, name, value)
    return replaced
