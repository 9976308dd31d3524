"""Which modules this process found in its cache directory, told to the daemon in batches.

A local hit asks nobody, so nothing else tells which modules a run uses. No hit waits for it: what is told goes into a
socket's buffer or stays for the next time, there is no thread, and without a daemon there is nothing.
"""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from neff import forks, greeting
from neff.backoff import BackOff
from neff.connection import post, socket_candidates
from neff.errors import HandlerError, LostError
from neff.keys import ModuleName
from neff.protocol import Message
from neff.quietline import QuietLine
from neff.waits import Waits

USED = "used"
# Hits that follow each other faster go together.
_EVERY_S = 0.25
# The longest names that are possible, this many, fit into one message.
_MODULES_PER_MESSAGE = 500
# While there is no daemon, so many are kept.
_MOST_WAITING = 10_000

_Module = tuple[str, ModuleName]
_Note = tuple[ModuleName, float]


class UsedReports:
    """Notes each module once. Thread-safe; no failure of the daemon leaves it.

    Args:
        socket_path: gives the daemon's socket, or None for wherever it may be.
        is_well: whether the daemon was well when others last had to do with it; else it is left alone.
    """

    def __init__(
        self,
        socket_path: Callable[[], str | None],
        waits: Waits | None = None,
        is_well: Callable[[], bool] = lambda: True,
    ) -> None:
        self._socket_path = socket_path
        self._waits = waits or Waits()
        self._is_well = is_well
        self._is_registered = False
        self._start_anew()
        forks.watch(self)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()  # never waited for
        self._seen: set[_Module] = set()
        self._waiting: dict[str, list[_Note]] = {}
        self._lines: dict[str, _Line] = {}
        self._backoff = BackOff()
        self._next_s = float("-inf")

    def after_fork_in_child(self) -> None:
        """What the parent noted is the parent's to tell."""
        self._is_registered = False
        self._leave()

    def _leave(self) -> None:
        lines = list(self._lines.values())
        self._start_anew()
        for line in lines:
            line.close()

    def found(self, root: str, name: ModuleName) -> None:
        """The module was in the cache directory `root`."""
        module = root, name
        if module in self._seen:
            return
        self._seen.add(module)
        now_s = self._waits.now_s()
        notes = self._waiting.setdefault(root, [])
        if len(notes) < _MOST_WAITING:
            notes.append((name, now_s))
        if now_s >= self._next_s:
            self._next_s = now_s + _EVERY_S
            self._exclusively(self._send, root, now_s)

    def known(self, root: str, name: ModuleName) -> None:
        """The daemon knows of the module already: it has brought it, or saw it compiled."""
        self._seen.add((root, name))

    def finish(self) -> None:
        """Leave with the daemon what is left, and begin anew: this process, or its run, is over."""
        for root in list(self._waiting):
            self._exclusively(self._post, root, self._waits.now_s())
        self._leave()

    def _exclusively(self, do: Callable[[str, float], None], root: str, now_s: float) -> None:
        """Not while a message is on its way, from another thread or below a signal handler: the next time will do."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            do(root, now_s)
        finally:
            self._lock.release()

    def _register(self) -> None:
        """Have the rest told at the end of this process, once."""
        self._is_registered = True
        atexit.unregister(self._at_exit)  # the parent's
        atexit.register(self._at_exit)
        # What this forks ends without `atexit`.
        process, util = (sys.modules.get(f"multiprocessing.{name}") for name in ("process", "util"))
        if process is not None and util is not None and process.parent_process() is not None:
            util.Finalize(None, self._at_exit, exitpriority=0)

    def _at_exit(self) -> None:
        try:
            self.finish()
        except (Exception, HandlerError):  # whatever it is, nobody can do anything about it any more
            return

    def _send(self, root: str, now_s: float) -> None:
        if not self._is_registered:
            self._register()
        try:
            line = self._line(root, now_s)
            if line is None or line.heard() is None:
                return
            self._backoff.succeeded()
            line.report(self._take(root), now_s)
        except LostError:
            self._backoff.failed(now_s, now_s)
            self._take_back(root)

    def _post(self, root: str, now_s: float) -> None:
        """What is left, without asking whether it is wanted where there is no time to hear so."""
        line = self._lines.get(root)
        with suppress(LostError):
            if line is not None and line.is_current() and line.heard() is not None:
                return line.report(self._take(root), now_s)
        self._take_back(root)
        reports = [{"op": USED, **_fields(part, now_s)} for part in _parts(self._take(root))]
        if reports and self._is_well():
            hello = greeting.of_trainer(root, greeting.identity_of(root))
            # In one go: who reads the first has the rest, though we are gone when it answers.
            messages = [{"hello": hello}, *({"id": number, **report} for number, report in enumerate(reports, 1))]
            post(socket_candidates(self._socket_path()), messages, self._waits)
        return None

    def _line(self, root: str, now_s: float) -> _Line | None:
        """The line for `root`, made if there is a daemon and it was not found missing just now; raises LostError."""
        line = self._lines.get(root)
        if line is not None and line.is_current():
            return line
        self._take_back(root)
        if not self._is_well() or not self._backoff.admits(now_s):
            return None
        self._lines[root] = line = _Line(root, self._socket_path(), self._waits)
        return line

    def _take_back(self, root: str) -> None:
        """The line is of no use any more: what was said on it and never confirmed is to be said again."""
        line = self._lines.pop(root, None)
        if line is not None:
            line.close()
            self._waiting.setdefault(root, [])[:0] = line.unconfirmed()

    def _take(self, root: str) -> list[_Note]:
        """What waits; another thread may add to it at any time."""
        waiting = self._waiting.get(root, [])
        notes = waiting[:]
        del waiting[: len(notes)]
        return notes


class _Line:
    """A line to the daemon for one cache directory and run, with what was said on it and not yet confirmed."""

    def __init__(self, root: str, socket_path: str | None, waits: Waits) -> None:
        self._root = root
        self._told_as = greeting.told_as(root)
        self._unconfirmed: dict[int, list[_Note]] = {}
        hello = greeting.of_trainer(root, self._told_as.identity)
        self._line = QuietLine(socket_candidates(socket_path), hello, waits)

    def is_current(self) -> bool:
        """Whether this line's greeting still says what a new one would."""
        return self._told_as == greeting.told_as(self._root)

    def heard(self) -> bool | None:
        """Take in what has come; whether the daemon wants reports, None while it has not greeted. Raises LostError."""
        for message in self._line.messages():
            number = message.get("id")
            if isinstance(number, int) and (message.get("done") is True or "error" in message):
                self._unconfirmed.pop(number, None)
        capabilities = self._line.capabilities
        return None if capabilities is None else USED in capabilities

    def report(self, notes: list[_Note], now_s: float) -> None:
        """Send notes where the daemon wants them; raises LostError."""
        if USED not in (self._line.capabilities or ()):
            return
        parts = _parts(notes)
        # Before the first is sent: what cannot be sent is to be said again.
        self._unconfirmed |= dict(enumerate(parts, self._line.last_id + 1))
        for part in parts:
            self._line.tell(USED, _fields(part, now_s))

    def unconfirmed(self) -> list[_Note]:
        """What was to be said, and may not have been heard."""
        return [note for part in self._unconfirmed.values() for note in part]

    def close(self) -> None:
        self._line.close()


def _parts(notes: list[_Note]) -> list[list[_Note]]:
    """As many as a message holds."""
    return [notes[at : at + _MODULES_PER_MESSAGE] for at in range(0, len(notes), _MODULES_PER_MESSAGE)]


def _fields(notes: list[_Note], now_s: float) -> Message:
    return {"modules": [[*name, round(max(now_s - found_s, 0.0), 3)] for name, found_s in notes]}
