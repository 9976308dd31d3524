"""The command as a child in the same process group and terminal, as if `neff run` were not in between.

Signals are taken from a queue (`sigtimedwait`), not by handlers: the queue tells who sent them, and so whether the
command has them already. Everything that is ignored stays ignored, for the command too.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from signal import struct_siginfo

_TERMINAL = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGWINCH})
_FORWARDED = _TERMINAL | {
    signal.SIGHUP,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGCONT,
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
}
# Python ignores these at its start; what the caller had is not known any more, and it is nearly always the default.
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
# Stops that shells show and undo. A plain SIGSTOP at the command is between it and its sender.
_JOB_CONTROL = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
_SHELL = "/bin/sh"
_LOOK_EVERY_S = 1.0


def replace_by(argv: Sequence[str]) -> None:
    """Become the command (`exec`); raises OSError if that is not possible."""
    for number in _IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], list(argv))
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
    os.execv(_SHELL, _as_script(argv))


class Child:
    """The running command.

    Args:
        argv: the command and its arguments.
        environ: its whole environment.

    Raises:
        OSError: it could not be started.
    """

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        # An inherited "ignore" would make the kernel forget how the command ended.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        kept = {number for number in _FORWARDED if signal.getsignal(number) is not signal.SIG_IGN}
        self._watched = kept | {signal.SIGCHLD}
        # Before the start, so that nothing is missed; the command gets the mask that we got.
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._watched)
        self._is_stopped = False
        try:
            self._pid = _spawn(argv, environ, self._mask)
        except BaseException:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            raise

    def wait(self) -> int:
        """Forward signals and follow stops until the command ends; returns its wait status.

        From then on signals act upon this process, as before the start.
        """
        try:
            return self._forward()
        finally:
            while signal.sigtimedwait(self._watched, 0) is not None:
                pass  # meant for a command that has ended
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _forward(self) -> int:
        while True:
            # Not for ever: another thread of this process, a profiler's say, may have been given the SIGCHLD.
            info = signal.sigtimedwait(self._watched, _LOOK_EVERY_S)
            if info is None or info.si_signo in (signal.SIGCHLD, signal.SIGCONT):
                status = self._news()
                if status is not None:
                    return status
                if info is not None and info.si_signo == signal.SIGCONT and self._is_stopped:
                    self._send(signal.SIGCONT)
            elif not self._has_it(info):
                self._send(info.si_signo)

    def _send(self, number: int) -> None:
        with suppress(PermissionError):  # a command that became another user, as sudo does
            os.kill(self._pid, number)

    def _has_it(self, info: struct_siginfo) -> bool:
        """Whether the command got this signal too, or sent it."""
        if info.si_code <= 0:
            return info.si_pid == self._pid
        if info.si_signo == signal.SIGHUP:
            return os.getsid(0) != os.getpid()  # a lost terminal tells the leader of the session alone
        return info.si_signo in _TERMINAL

    def _news(self) -> int | None:
        """Take in how the command fares; its wait status if it has ended."""
        while True:
            pid, status = os.waitpid(self._pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if pid == 0:
                return None
            if os.WIFCONTINUED(status):
                self._is_stopped = False
            elif os.WIFSTOPPED(status):
                self._is_stopped = True
                _stop_too(os.WSTOPSIG(status))
            else:
                return status


def exit_code(status: int) -> int:
    """A wait status as shells tell it: 128 and the number of the signal that ended the command."""
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def end_like(status: int) -> int:
    """The exit code for a command's wait status. Where a signal ended it, that ends this process too."""
    if os.WIFEXITED(status):
        return exit_code(status)
    number = os.WTERMSIG(status)
    # Too small for any core file: ours would tell nothing, and might replace the command's.
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (min(1, hard) if hard != resource.RLIM_INFINITY else 1, hard))
    with suppress(OSError):  # SIGKILL needs no preparation and takes none
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return exit_code(status)  # the first process of a container outlives it


def _spawn(argv: Sequence[str], environ: Mapping[str, str], mask: set[int | signal.Signals]) -> int:
    options = {"setsigmask": mask, "setsigdef": _IGNORED_BY_PYTHON}
    try:
        return os.posix_spawnp(argv[0], argv, environ, **options)  # type: ignore[arg-type]
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
    return os.posix_spawn(_SHELL, _as_script(argv), environ, **options)  # type: ignore[arg-type]


def _as_script(argv: Sequence[str]) -> list[str]:
    """A script without `#!` is the shell's to run, as `env` and every shell have it."""
    return [_SHELL, shutil.which(argv[0]) or argv[0], *argv[1:]]


def _stop_too(number: int) -> None:
    """Let whoever watches this process see the command's stop; returns when it goes on."""
    if number in _JOB_CONTROL and signal.getsignal(number) is not signal.SIG_IGN:
        os.kill(os.getpid(), number)
        blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})  # stops here
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
