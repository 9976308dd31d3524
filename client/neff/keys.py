"""Names of compiled modules: which compiler, which graph, which flags.

Shared by the client and the daemon, so that both read a path in the same way. Formats: a namespace is
``neuronxcc-<version>+<commit>``, a module key ``MODULE_<hlo hash>+<flags hash>`` with eight hex digits of flags hash.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

# No separators, no leading dot, bounded: a name that fits is safe as one path component.
_NAMESPACE = re.compile(r"neuronxcc-(?P<version>[0-9A-Za-z][0-9A-Za-z.]{0,60})(?:\+[0-9A-Za-z.]{1,60})?")
_MODULE = re.compile(r"MODULE_(?P<hlo>[0-9A-Za-z_-]{1,120})\+(?P<flags>[0-9a-f]{8})")
_RUN = re.compile(r"RUN_[0-9a-f]{32}")
_NUMBERS = re.compile(r"[0-9]+(?:\.[0-9]+)*")
# First release whose entries are ready when `model.done` is there; before it `model.neff` itself was the mark.
_FIRST_WITH_DONE = (2, 15)


class LockId(NamedTuple):
    """Which file a lock is: an inode alone could have been given to another one."""

    inode: int
    ctime_ns: int


class ModuleName(NamedTuple):
    """One module in one namespace, written ``<namespace>/<module key>``."""

    namespace: str
    key: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.key}"


def is_namespace(name: str) -> bool:
    """Whether `name` is the directory name of one compiler version."""
    return _NAMESPACE.fullmatch(name) is not None


def is_module_key(name: str) -> bool:
    """Whether `name` is a module key. Folders of traced models have no flags hash and are not modules."""
    return _MODULE.fullmatch(name) is not None


def is_run_key(name: str) -> bool:
    """Whether `name` is a run key: a digest of what determines a job's graphs."""
    return _RUN.fullmatch(name) is not None


def hlo_hash(key: str) -> str:
    """The graph's half of a module key; raises ValueError if `key` is none."""
    return _parse_module(key)["hlo"]


def flags_hash(key: str) -> str:
    """The compiler flags' half of a module key; raises ValueError if `key` is none."""
    return _parse_module(key)["flags"]


def parse_module_name(text: str) -> ModuleName:
    """Read ``<namespace>/<module key>``; raises ValueError naming what does not fit."""
    namespace, _, key = text.partition("/")
    if not is_namespace(namespace) or not is_module_key(key):
        raise ValueError(f"not a module name: {text!r} (expected neuronxcc-<version>/MODULE_<hlo>+<flags>)")
    return ModuleName(namespace, key)


@functools.lru_cache(maxsize=256)
def ready_mark(namespace: str) -> str:
    """File whose presence makes an entry of this compiler version ready (contract, section 1.1)."""
    version = compiler_version(namespace)
    return "model.neff" if version and version < _FIRST_WITH_DONE else "model.done"


def compiler_version(namespace: str) -> tuple[int, ...]:
    """Leading numbers of the compiler version; raises ValueError if `namespace` is none."""
    match = _NAMESPACE.fullmatch(namespace)
    if match is None:
        raise ValueError(f"not a namespace: {namespace!r}")
    leading = _NUMBERS.match(match["version"])
    return tuple(int(part) for part in leading[0].split(".")) if leading else ()


def _parse_module(key: str) -> re.Match[str]:
    match = _MODULE.fullmatch(key)
    if match is None:
        raise ValueError(f"not a module key: {key!r}")
    return match
