"""The switches of the stand-in, read from the environment at each call. The README has the table."""

from __future__ import annotations

import os

_PREFIX = "NEURON_STANDIN_"
_VERSIONS = {"2.14": "2.14.227.0+2d4f85be", "2.15+": "2.20.9961.0+0acef03a"}


def text(name: str, default: str = "") -> str:
    return os.environ.get(_PREFIX + name, default)


def number(name: str, default: float) -> float:
    return float(text(name) or default)


def on(name: str) -> bool:
    return text(name) not in ("", "0")


def generation() -> str:
    """`2.14` or `2.15+`: as set, otherwise what the compiler version says."""
    chosen = text("GENERATION")
    if chosen:
        if chosen not in _VERSIONS:
            raise ValueError(f"{_PREFIX}GENERATION is {chosen!r}, allowed: {', '.join(_VERSIONS)}")
        return chosen
    version = text("COMPILER_VERSION")
    return "2.14" if version and release(version) < (2, 15) else "2.15+"


def is_legacy() -> bool:
    return generation() == "2.14"


def compiler_version() -> str:
    return text("COMPILER_VERSION") or _VERSIONS[generation()]


def release(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def target_is_hashed() -> bool:
    """The target joined the hashed flags at 2.16."""
    return release(compiler_version()) >= (2, 16)
