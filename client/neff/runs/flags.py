"""Compiler flags as a run key has them: one spelling each, sorted, without defaults and what changes no graph."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple

# For the Neuron tools around the compiler, which never sees them.
_WRAPPERS = frozenset(
    {"--cache_dir", "--no_cache", "--retry_failed_compilation", "--log_level", "--dump", "--compile_workdir"}
)
# What the compiler does without being told, or says while it works.
_DEFAULTS = frozenset({"--framework=XLA", "--model-type=generic", "--auto-cast-type=bf16", "--optlevel=2"})
_SAYS = frozenset({"--verbose"})
_ALIASES = {"-O": "--optlevel", "--logical-nc-config": "--lnc", "-v": "--verbose"}
# Their value is a list of options itself, and may begin with a dash.
_LISTS = frozenset(
    {
        "--tensorizer-options",
        "--hlo2tensorizer-options",
        "--internal-hlo2tensorizer-options",
        "--internal-backend-options",
    }
)


class Flags(NamedTuple):
    """The flags, and the target that was among them."""

    words: list[str]
    target: str | None


def normal_flags(flags: str | Sequence[str]) -> Flags:
    """Read flags as a shell line or a list of words."""
    pairs = _pairs(_split(flags) if isinstance(flags, str) else list(flags))
    targets = [value for name, value in pairs if name == "--target" and value]
    names = [name for name, _ in pairs]
    left_out = _WRAPPERS | _SAYS | {"--target"}
    words = {name if value is None else f"{name}={value}" for name, value in pairs if name not in left_out}
    # One that is given twice is not settled by its default.
    words -= {word for word in _DEFAULTS if names.count(word.partition("=")[0]) == 1}
    return Flags(sorted(words), targets[-1] if targets else None)


def _pairs(words: Sequence[str]) -> list[tuple[str, str | None]]:
    """Each option with its value, whether it stands behind `=` or as the next word."""
    pairs: list[tuple[str, str | None]] = []
    rest = list(reversed(words))
    while rest:
        word = rest.pop()
        if word.startswith("-O") and len(word) > 2:
            word = f"-O={word[2:].lstrip('=')}"
        name, has_value, value = word.partition("=")
        if not has_value and rest and word.startswith("-") and (word in _LISTS or not rest[-1].startswith("-")):
            has_value, value = "=", rest.pop()
        pairs.append((_ALIASES.get(name, name), value if has_value else None))
    return pairs


def _split(flags: str) -> list[str]:
    try:
        return shlex.split(flags)
    except ValueError:  # an open quote, of which the compiler will complain
        return flags.split()
