"""Does any process use this file now?

The kernel grants a write lease on a file only while nobody else has it open or mapped, and lets nobody open it while
the lease is held. It is granted to the file's owner and to root; of other files `/proc` tells what we may see.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from neffd.store import fsops

_PROC = Path("/proc")


class InUse(Exception):
    """Some process has the file open or mapped."""


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes from opening a file for a moment; raises InUse, or OSError if it cannot be opened.

    Where the kernel gives us no lease, this only looks whether somebody has it open.
    """
    fd = fsops.open_regular(path)
    try:
        if not _lease(fd) and _identity(os.fstat(fd)) in _opened_by_others():
            raise InUse(path)
        yield
    finally:
        os.close(fd)  # ends the lease


def _lease(fd: int) -> bool:
    """Take a write lease; false where that is not for us to have. Raises InUse."""
    try:
        # Whoever opens the file meanwhile makes the kernel signal us: by default with one that ends the process.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            raise InUse from None
        return False
    return True


def _opened_by_others() -> set[tuple[int, int]]:
    """Device and inode of every file that a process which we may look into has open or mapped."""
    found: set[tuple[int, int]] = set()
    for process in _PROC.iterdir():
        if not process.name.isdigit() or process.name == str(os.getpid()):
            continue
        with contextlib.suppress(OSError):  # ended, or another user's
            for link in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    found.add(_identity(link.stat()))
            for line in (process / "maps").read_text(errors="replace").splitlines():
                device, inode = line.split(maxsplit=5)[3:5]
                major, _, minor = device.partition(":")
                found.add((os.makedev(int(major, 16), int(minor, 16)), int(inode)))
    return found


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino
