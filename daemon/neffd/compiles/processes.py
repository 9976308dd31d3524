"""Is a process gone? Proof by pidfd; and which processes name a module in their arguments.

A pidfd that can be read means that the process with this number has ended. Had the number gone to another process
before the pidfd was made, the one that was meant would be gone as well: the proof holds either way.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import time
from collections.abc import Callable, Collection
from pathlib import Path

from neff.protocol import Message
from neffd.compiles.board import Program

_PROC = Path("/proc")
_START_TIME_FIELD = 19  # of /proc/PID/stat, counted after the command's name
_SHOWN_CHARS = 120
# That a process cannot be looked at for one of these is our own want, and says nothing of it.
_OUR_WANT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Watched:
    """Processes whose end is told.

    Args:
        ended: called on the event loop with the pid of a process that has ended, once.
    """

    def __init__(self, ended: Callable[[int], None]) -> None:
        self._ended = ended
        self._pidfds: dict[int, int] = {}

    def add(self, pid: int) -> bool:
        """Watch one more process; false where nothing can be known of it. One that is gone is told at once."""
        if pid <= 0:
            return False
        known = self._pidfds.get(pid)
        if known is not None:
            if not _has_ended(known):
                return True
            self._gone(pid)  # and its number is somebody else's now
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            asyncio.get_running_loop().call_soon(self._ended, pid)
            return True
        except OSError:  # an old kernel, a filter of system calls, no file handle left
            return False
        self._pidfds[pid] = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._gone, pid)
        return True

    def drop(self, pid: int) -> None:
        """Nobody wants to know any more; a no-op for one that is not watched."""
        pidfd = self._pidfds.pop(pid, None)
        if pidfd is not None:
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)

    def close(self) -> None:
        """Stop watching all of them."""
        for pid in list(self._pidfds):
            self.drop(pid)

    def _gone(self, pid: int) -> None:
        if pid in self._pidfds:
            self.drop(pid)
            self._ended(pid)


def start_time(pid: int) -> int | None:
    """When a process was started, in ticks since the boot; None where that cannot be read."""
    try:
        words = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return int(words[_START_TIME_FIELD])
    except (OSError, ValueError, IndexError):
        return None


def age_s(pid: int) -> float | None:
    """For how long a process has been there, whatever the wall clock says; None where that cannot be read."""
    started = start_time(pid) if pid > 0 else None
    return None if started is None else time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def client_pid(hello: Message, peer: int) -> int:
    """The pid of a client that has greeted through a connection of the process `peer`; 0 where it is another one.

    So it is behind a proxy, whose life and death say nothing of it.
    """
    told, own = hello.get("pid"), _own_pid(peer)
    return peer if type(told) is not int or own in (None, told) else 0


def program_of(hello: Message, pid: int) -> Program | None:
    """Which program a client that has greeted is, whose process is `pid`; None where that is not certain."""
    told = hello.get("program")
    if pid <= 0 or type(hello.get("pid")) is not int or not isinstance(told, dict):
        return None
    number, at_ns, started = told.get("number"), told.get("at_ns"), told.get("started")
    if type(number) is not int or type(at_ns) is not int or type(started) is not int:
        return None
    return Program(number, at_ns) if started == start_time(pid) else None


def _own_pid(pid: int) -> int | None:
    """What a process calls itself, in the innermost pid namespace that it is in."""
    try:
        lines = (_PROC / str(pid) / "status").read_text(errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("NSpid:")).split()[-1])
    except (OSError, ValueError, StopIteration):
        return None


def pid_space() -> str | None:
    """Names the pid namespace in which this process sees others; None where that cannot be told.

    The number of a namespace may be used again; together with the start of its first process it is not.
    """
    first = start_time(1)
    try:
        number = (_PROC / "self" / "ns" / "pid").stat().st_ino
    except OSError:
        return None
    return None if first is None else f"{number}:{first}"


def naming(keys: Collection[str]) -> dict[str, dict[int, str]]:
    """For each module key the processes that name it in their arguments: a shortened command line by pid. Blocking.

    Raises OSError where not all of them can be looked at for want of files or memory.
    """
    wanted = {key: os.fsencode(key) for key in keys}
    found: dict[str, dict[int, str]] = {key: {} for key in keys}
    own = os.getpid()
    for folder in _PROC.iterdir():
        if not folder.name.isdecimal() or int(folder.name) == own:
            continue
        try:
            arguments = (folder / "cmdline").read_bytes()
        except OSError as error:
            if error.errno in _OUR_WANT:
                raise
            continue  # it has just ended, or may not be seen
        for key, text in wanted.items():
            if text in arguments:
                found[key][int(folder.name)] = _shown(arguments)
    return found


def names(pid: int, key: str) -> bool:
    """Whether a process still runs that names the module in its arguments."""
    try:
        return os.fsencode(key) in (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return False


def _shown(arguments: bytes) -> str:
    text = arguments.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
