"""Where the compile cache is, as the Neuron tools resolve it. Shared by the client and the daemon.

Order: `--cache_dir=` in `NEURON_CC_FLAGS`, then `NEURON_COMPILE_CACHE_URL`, then the default. Nothing here touches
the file system.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

DEFAULT_CACHE_DIR = "/var/tmp/neuron-compile-cache"

_OPTION = "--cache_dir"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def cache_root(environ: Mapping[str, str] | None = None) -> str | None:
    """Absolute path of the cache directory, or None where the cache is no directory (`s3://…`)."""
    return local_path(cache_url(os.environ if environ is None else environ))


def cache_url(environ: Mapping[str, str]) -> str:
    """The cache's place as configured: a path or a URL."""
    from_flags = _cache_dir_flag(environ.get("NEURON_CC_FLAGS", ""))
    return from_flags or environ.get("NEURON_COMPILE_CACHE_URL", "") or DEFAULT_CACHE_DIR


def local_path(url: str) -> str | None:
    """The directory that `url` names: a plain path or `file://…`; None for any other scheme."""
    if url.startswith("file://"):
        url = url[len("file://") :]
    if not url or _SCHEME.match(url):
        return None
    return os.path.abspath(url)


def _cache_dir_flag(flags: str) -> str:
    """Value of the last `--cache_dir=VALUE` or `--cache_dir VALUE` among the flags, or an empty string."""
    value = ""
    words = iter(_split(flags))
    for word in words:
        if word == _OPTION:
            value = next(words, "")
        elif word.startswith(_OPTION + "="):
            value = word[len(_OPTION) + 1 :]
    return value


def _split(flags: str) -> list[str]:
    import shlex  # only here: the hook reads the root from the paths it sees

    try:
        return shlex.split(flags)
    except ValueError:
        # An open quote somewhere: the compiler will complain about it, the place of the cache is still readable.
        return flags.split()
