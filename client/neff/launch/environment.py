"""What the command finds in its environment besides what it would find anyway."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple

from neff.tally import RUN_DIR

# Holds nothing but the sitecustomize that sets the hook.
SITE_DIR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "site")


class RunFolder(NamedTuple):
    """Where the run's processes write what they met. One inside another run's folder goes with that one."""

    path: str
    is_nested: bool


@contextmanager
def kept(folder: RunFolder | None) -> Iterator[None]:
    """Meanwhile who clears old temporary files leaves the folder alone: systemd-tmpfiles passes over a locked one."""
    fd = -1
    if folder is not None:
        with suppress(OSError):
            fd = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    try:
        yield
    finally:
        if fd >= 0:
            os.close(fd)


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Whether `NEFF_DISABLE` turns everything off."""
    return environ.get("NEFF_DISABLE", "") not in ("", "0")


def additions(environ: Mapping[str, str], folder: RunFolder | None, socket_path: str | None) -> dict[str, str]:
    """The variables that `neff run` sets for the command."""
    added = {"PYTHONPATH": python_path(environ.get("PYTHONPATH", ""))}
    if folder is not None:
        added[RUN_DIR] = folder.path
    if socket_path is not None:
        # The command, or what it starts, may change its directory.
        added["NEFFD_SOCKET"] = absolute(socket_path)
    return added


def absolute(path: str) -> str:
    """`path` from any directory; as it is where the current one is gone, which is no reason not to start."""
    try:
        return os.path.abspath(path)
    except OSError:
        return path


def python_path(theirs: str, site_dir: str = SITE_DIR) -> str:
    """Our directory first, then what was there; an empty part would mean the current directory, so none is added."""
    if os.pathsep in site_dir or theirs.split(os.pathsep)[0] == site_dir:
        return theirs  # not to be named in this variable; or a run inside a run
    return f"{site_dir}{os.pathsep}{theirs}" if theirs else site_dir


def make_run_folder(environ: Mapping[str, str]) -> RunFolder | None:
    """A private folder (mode 0700): inside an outer run's, else where the user's short-lived files go."""
    import tempfile  # only here: half of what the other commands need to start

    outer = environ.get(RUN_DIR, "")
    for parent in (outer, environ.get("XDG_RUNTIME_DIR", ""), None):
        if parent is not None and not os.path.isabs(parent):
            continue
        with suppress(OSError):
            return RunFolder(tempfile.mkdtemp(prefix="neff-run-", dir=parent), bool(outer) and parent == outer)
    return None
