"""NEURON_CC_FLAGS: what is for the wrapper, and what is for the compiler."""

from __future__ import annotations

import argparse
import os
import shlex


def _wrapper_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--cache_dir")
    parser.add_argument("--no_cache", action="store_true")
    parser.add_argument("--retry_failed_compilation", action="store_true")
    parser.add_argument("--log_level", default="INFO")
    parser.add_argument("--dump")
    parser.add_argument("--compile_workdir")
    return parser


def split_flags(flags: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The wrapper's own options, and the compiler's in their order and spelling."""
    return _wrapper_parser().parse_known_args(flags)


def setup_args() -> tuple[argparse.Namespace, list[str], list[str]]:
    """(wrapper options, compiler flags, all flags)."""
    every = shlex.split(os.environ.get("NEURON_CC_FLAGS", ""))
    wrapper, compiler = split_flags(every)
    return wrapper, compiler, every
