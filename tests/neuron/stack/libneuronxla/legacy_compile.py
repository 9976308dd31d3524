"""Compiling up to 2.14: primitives only, `model.neff` is the ready mark and also holds a failure's text."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from libneuronxla.cache_entry import HLO, NEFF, WRAPPED
from libneuronxla.logger import get_logger
from libneuronxla.neuron_cc_cache import CompileCache

FAILED_TEXT = "Failed compilation"
FLAGS_TEXT_NAME = "compile_flags.txt"
_logger = get_logger("||NEURON_CC_WRAPPER||")
Compiler = Callable[[str, str, list[str], str], None]


def content_key(module_bytes: bytes) -> str:
    """For callers that give no key."""
    return hashlib.sha256(module_bytes).hexdigest()[:20]


def replay_failure(neff_path: str, log: str) -> NoReturn:
    _logger.error(
        "Got a cached failed neff at %s. Will skip compilation, please set --retry_failed_compilation "
        "for recompilation: %s",
        neff_path,
        log,
    )
    raise subprocess.CalledProcessError(-1, "", stderr=log)


def compile_through(
    cache: CompileCache,
    key: str,
    flags: list[str],
    input_file: str,
    output: str,
    call_compiler: Compiler,
    retry_failed: bool,
) -> None:
    entry_dir = cache.get_cache_dir(key, cache.flags_text(flags))[0]
    neff, wrapped = f"{entry_dir}/{NEFF}", f"{entry_dir}/{WRAPPED}"
    made_wrapped = Path(output).with_name(WRAPPED)
    if cache.exists(neff):
        failed = cache.download_file_to_string(neff, limit=len(FAILED_TEXT)) == FAILED_TEXT
        if not failed:
            cache.download_file(neff, output)
            if cache.exists(wrapped):
                cache.download_file(wrapped, str(made_wrapped))
            return
        if not retry_failed:
            replay_failure(neff, cache.download_file_to_string(neff))
    cache.upload_file(f"{entry_dir}/{HLO}", input_file)
    cache.upload_string_to_file(f"{entry_dir}/{FLAGS_TEXT_NAME}", cache.flags_text(flags))
    try:
        call_compiler(str(Path(output).parent), input_file, flags, output)
    except subprocess.CalledProcessError as error:
        cache.upload_string_to_file(neff, f"{FAILED_TEXT} with {error.cmd}: {error.stderr}")
        raise
    cache.upload_file(neff, output)
    if made_wrapped.exists():
        cache.upload_file(wrapped, str(made_wrapped))
