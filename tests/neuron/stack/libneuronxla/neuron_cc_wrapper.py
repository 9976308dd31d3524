"""From HLO bytes to NEFF bytes, through the cache and the `neuronx-cc` command."""

from __future__ import annotations

import enum
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from dataclasses import dataclass
from pathlib import Path

import standin_switches as switches

from libneuronxla import legacy_compile
from libneuronxla.cache_entry import WRAPPED, CompileCacheEntry
from libneuronxla.libncc import split_flags
from libneuronxla.logger import get_logger
from libneuronxla.neuron_cc_cache import CacheUrl, create_compile_cache

NEURONCC_WRAPPER_ENV_INFO = "NEURON_CC_FLAGS, NEURON_COMPILE_CACHE_URL, NEURON_PARALLEL_COMPILE_MAX_RETRIES"
_WRAPPER_FLAG = "--enable-internal-neff-wrapper"
_logger = get_logger("||NEURON_CC_WRAPPER||")


class ExecutionMode(enum.Enum):
    LAZY = "lazy"
    EAGER = "eager"


@dataclass(frozen=True)
class CompileOptions:
    platform_target: str = "trn1"
    cache_key: str | None = None
    retry_failed_compilation: bool = False
    use_cache: bool = True
    cache_dir: str | None = None
    work_dir: str | None = None
    create_subdir: bool | None = None
    dump: str | None = None
    execution_mode: ExecutionMode = ExecutionMode.LAZY


def neuron_xla_compile(
    module_bytes: bytes,
    compiler_flags: list[str] | str,
    *,
    input_format: str = "hlo",
    platform_target: str = "trn1",
    cache_key: str | None = None,
    retry_failed_compilation: bool = False,
    lazy: bool = True,
    use_cache: bool = True,
    cache_dir: str | None = None,
    work_dir: str | None = None,
    create_subdir: bool | None = None,
    dump: str | None = None,
) -> bytes:
    if input_format != "hlo":
        raise ValueError(f"input_format {input_format!r}, only 'hlo' is known")
    options = CompileOptions(
        platform_target=platform_target,
        cache_key=cache_key,
        retry_failed_compilation=retry_failed_compilation,
        use_cache=use_cache,
        cache_dir=cache_dir,
        work_dir=work_dir,
        create_subdir=create_subdir,
        dump=dump,
        execution_mode=ExecutionMode.LAZY if lazy else ExecutionMode.EAGER,
    )
    return _compile_bytes(module_bytes, _as_list(compiler_flags), options)[0]


def neuron_xla_wlo_compile(
    module_bytes: bytes, compiler_flags: list[str] | str, *, platform_target: str = "trn1", **arguments: object
) -> tuple[bytes, bytes]:
    """Also the wrapper module, as a weight-layout-optimised graph has one."""
    if arguments.pop("input_format", "hlo") != "hlo":
        raise ValueError("only the input_format 'hlo' is known")
    arguments["execution_mode"] = ExecutionMode.LAZY if arguments.pop("lazy", True) else ExecutionMode.EAGER
    options = CompileOptions(platform_target, **arguments)  # type: ignore[arg-type]
    flags = _as_list(compiler_flags)
    if _WRAPPER_FLAG not in flags:
        flags.append(_WRAPPER_FLAG)
    neff, wrapped = _compile_bytes(module_bytes, flags, options)
    if wrapped is None:
        raise FileNotFoundError(f"{WRAPPED} of {options.cache_key}")
    return neff, wrapped


def _compile_bytes(module_bytes: bytes, flags: list[str], options: CompileOptions) -> tuple[bytes, bytes | None]:
    work_dir = _make_work_dir(options)
    name = options.cache_key or "graph"
    input_file, output = work_dir / f"model.MODULE_{name}.hlo_module.pb", work_dir / f"model.MODULE_{name}.neff"
    input_file.write_bytes(module_bytes)
    neuron_xla_compile_impl(str(input_file), flags, str(output), options=options, cache_key=options.cache_key)
    wrapped = work_dir / WRAPPED
    neff = output.read_bytes() if output.exists() else b""  # none when only graphs are extracted
    return neff, wrapped.read_bytes() if wrapped.exists() else None


def neuron_xla_compile_impl(
    input_file: str,
    compiler_flags: list[str],
    output: str,
    *,
    options: CompileOptions | None = None,
    cache_key: str | None = None,
) -> None:
    options = options or CompileOptions(cache_key=cache_key)
    flags = split_flags(compiler_flags)[1]
    hashed = [f"--target={options.platform_target}", *flags] if switches.target_is_hashed() else flags
    work_dir = str(Path(output).parent)
    if not options.use_cache:
        call_neuron_compiler(work_dir, input_file, hashed, output, options.execution_mode, dump=options.dump)
        return
    key = cache_key or legacy_compile.content_key(Path(input_file).read_bytes())
    cache = create_compile_cache(CacheUrl.get_cache_url(options.cache_dir))
    if switches.is_legacy():
        legacy_compile.compile_through(
            cache, key, hashed, input_file, output, call_neuron_compiler, options.retry_failed_compilation
        )
        return
    entry: CompileCacheEntry = cache.lookup(key, hashed)
    if os.environ.get("NEURON_EXTRACT_GRAPHS_ONLY") == "1":
        _extract(entry, input_file, hashed)
        return
    with entry:
        if not entry.exists:
            entry.upload_inputs(input_file, json.dumps(hashed))
            compile_cache_entry(
                output,
                entry,
                execution_mode=options.execution_mode,
                retry_failed_compilation=options.retry_failed_compilation,
                dump=options.dump,
                work_dir=work_dir,
            )
            return
    _take_cached(entry, output, wants_wrapped=_WRAPPER_FLAG in hashed)


def compile_cache_entry(
    output: str,
    entry: CompileCacheEntry,
    *,
    execution_mode: ExecutionMode = ExecutionMode.LAZY,
    retry_failed_compilation: bool = False,
    dump: str | None = None,
    work_dir: str | None = None,
) -> tuple[bool, int]:
    """(status, retries). The caller holds the entry; a failure is kept in it and raised."""
    if entry.log_exists() and not retry_failed_compilation:
        legacy_compile.replay_failure(entry.neff_path, entry.download_log())
    work_dir = work_dir or tempfile.mkdtemp(prefix="neuronxcc-")
    hlo = f"{work_dir}/model.{entry.key}.hlo_module.pb"
    entry.download_hlo(hlo)
    flags: list[str] = json.loads(entry.download_flags())
    retries = 0
    while True:
        try:
            call_neuron_compiler(work_dir, hlo, flags, output, execution_mode, dump=dump)
            break
        except subprocess.CalledProcessError as error:
            if retries >= int(os.environ.get("NEURON_PARALLEL_COMPILE_MAX_RETRIES", "0")):
                entry.upload_log(f"Failed compilation with {error.cmd}: {error.stderr}")
                raise
            retries += 1
        except KeyboardInterrupt:
            entry.upload_log("Failed compilation: interrupted")
            raise
    _publish(entry, output, Path(work_dir) / WRAPPED)
    return True, retries


def _publish(entry: CompileCacheEntry, neff: str, wrapped: Path) -> None:
    late = switches.text("WRAPPED_AFTER_MARK_S")
    if not wrapped.exists():
        entry.upload_neff(neff)
    elif late:
        entry.upload_neff(neff)
        time.sleep(float(late))
        entry.upload_wrapped_neff(str(wrapped))
    else:
        entry.upload_neff(neff, str(wrapped))


def _take_cached(entry: CompileCacheEntry, output: str, *, wants_wrapped: bool) -> None:
    _logger.info("Using a cached neff at %s", entry.neff_path)
    entry.download_neff(output)
    if wants_wrapped:
        entry.download_wrapped_neff(str(Path(output).with_name(WRAPPED)))


def _extract(entry: CompileCacheEntry, input_file: str, flags: list[str]) -> None:
    with entry:
        if not entry.exists:
            entry.upload_inputs(input_file, json.dumps(flags))
    print(f"Extracting graphs ({entry.hlo_path}) for ahead-of-time parallel compilation.", flush=True)


def call_neuron_compiler(
    work_dir: str,
    input_file: str,
    compile_flags: list[str],
    output_file: str,
    execution_mode: ExecutionMode = ExecutionMode.LAZY,
    framework: str = "XLA",
    dump: str | None = None,
) -> None:
    command = _command_line(input_file, compile_flags, output_file, framework)
    if dump:
        command += ["--pipeline", "compile", "SaveTemps"]
        subprocess.run(["neuronx-cc", "--version"], check=True, capture_output=True)
    _logger.info("Call compiler with cmd: %s", shlex.join(command))
    done = subprocess.run(
        command, cwd=work_dir, env=_compiler_environment(), capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)


def _command_line(source: str, flags: list[str], output: str, framework: str) -> list[str]:
    version = switches.release(switches.compiler_version())
    if version >= (2, 16):  # the target is the first of the flags
        return ["neuronx-cc", "compile", f"--framework={framework}", source, "--output", output, *flags, "--verbose=35"]
    tail = [source, "--output", output, *flags, "--verbose=35"]
    if version >= (2, 13):
        return ["neuronx-cc", "compile", "--target=trn1", f"--framework={framework}", *tail]
    return ["neuronx-cc", "--target=trn1", "compile", "--framework", framework, *tail]


def _compiler_environment() -> dict[str, str]:
    environment = dict(os.environ)
    preload = environment.get("LD_PRELOAD", "").replace(":", " ").split()
    if preload:
        environment["LD_PRELOAD"] = ":".join(library for library in preload if "libtcmalloc" not in library)
    return environment


def _make_work_dir(options: CompileOptions) -> Path:
    if options.create_subdir is not None and switches.is_legacy():
        raise TypeError("neuron_xla_compile() got an unexpected keyword argument 'create_subdir'")
    root = Path(options.work_dir or default_work_root())
    path = root if options.create_subdir is False else root / str(uuid.uuid4())
    path.mkdir(parents=True, exist_ok=True)
    return path


def default_work_root() -> str:
    chosen = switches.text("WORK_DIR")
    return chosen or f"/tmp/{os.environ.get('USER') or 'no-user'}/neuroncc_compile_workdir"


def _as_list(flags: list[str] | str) -> list[str]:
    if not isinstance(flags, str):
        return list(flags)
    if not switches.is_legacy():
        warnings.warn("compiler_flags as a str, use list[str]", SyntaxWarning, stacklevel=3)
    return shlex.split(flags)


def main() -> int:
    """`neuron_cc_wrapper INPUT --output OUTPUT [--cache_key KEY] [FLAG...]`, as torch-xla ran it before PJRT."""
    arguments = sys.argv[1:]
    output = arguments.pop(arguments.index("--output") + 1)
    arguments.remove("--output")
    key = None
    if "--cache_key" in arguments:
        key = arguments.pop(arguments.index("--cache_key") + 1)
        arguments.remove("--cache_key")
    wrapper, _ = split_flags(arguments[1:])
    options = CompileOptions(
        cache_dir=wrapper.cache_dir,
        use_cache=not wrapper.no_cache,
        retry_failed_compilation=wrapper.retry_failed_compilation,
    )
    try:
        neuron_xla_compile_impl(arguments[0], arguments[1:], output, options=options, cache_key=key)
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr)
        return 1
    return 0
