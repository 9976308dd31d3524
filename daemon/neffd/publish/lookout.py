"""Watching that cannot go quiet: whether events still come from one cache directory, and what is done where not.

Looked at now and then: is the directory still the one that is watched, do watchdog's threads live, does an event that
we cause ourselves arrive. What is found is said, and whatever happened, a scan is what heals it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

from neffd.publish.canary import Canary
from neffd.publish.watch import Watch
from neffd.serve.status import Problems
from neffd.store.filesystem import network_file_system
from neffd.store.root import CacheRoot

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 5.0
_LOOK_EVERY_WHILE_GONE_S = 0.5
# What does not mend it is not done all the time: threads that hang stay behind.
_RESTART_EVERY_S = 600.0
# Where events do not come, scans are all there is.
_BLIND_SCAN_S = 10.0
# After a scan at least so many times as long without one, where events come and where not.
_PAUSES, _BLIND_PAUSES = 20, 3
# Below the staging folder, so on the same file system; no tool of a framework looks there.
_SIGNS = "signs"
_TRUTH = "scans find everything, later"

GONE, REPLACED, NO_EVENTS, MISSING = "cache-dir-gone", "cache-dir-replaced", "no-events", "events-missing"
_Findings = dict[str, tuple[str, str]]


class Lookout:
    """Keeps the events of one cache directory coming.

    Args:
        watch: what watches; stopped and started by us alone.
        in_worker: runs something that blocks.
        clock: monotonic seconds.
        on_new_root: called when another directory, or the same one after it was away, has its place.
    """

    def __init__(
        self,
        root: CacheRoot,
        watch: Watch,
        in_worker: Callable[[Callable[[], tuple[str, _Findings]]], Awaitable[tuple[str, _Findings]]],
        problems: Problems,
        clock: Callable[[], float],
        on_new_root: Callable[[], None] = lambda: None,
    ) -> None:
        self._root = root
        self._watch = watch
        self._in_worker = in_worker
        self._problems = problems
        self._clock = clock
        self._on_new_root = on_new_root
        self._canary = Canary(clock)
        self._look_at = self._restart_at = clock()
        self._first_device: int | None = None
        self._identity: tuple[int, int] | None = None
        self._ended: set[str] = set()
        self._network: str | None = None
        self._is_new = True
        self._is_gone = False
        self._has_changed = False
        self._is_watching = False
        self._told: _Findings = {}

    @property
    def _signs(self) -> Path:
        return self._root.staging / _SIGNS

    @property
    def due_in_s(self) -> float:
        """Seconds until `look` wants to be called."""
        due_in_s = self._look_at - self._clock()
        # Without a watch no sign is sent, and its time only passes.
        return max(0.0, min(due_in_s, self._canary.due_in_s) if self._is_watching else due_in_s)

    def scan_pause_s(self, scan_s: float, took_s: float) -> float:
        """How long after a scan that took `took_s` the next one is due; `scan_s` where events come."""
        if self._told:
            return max(min(scan_s, _BLIND_SCAN_S), took_s * _BLIND_PAUSES)
        return max(scan_s, took_s * _PAUSES)

    def heard(self, path: Path) -> bool:
        """Whether an event is our own sign, and nobody else's business."""
        if path != self._signs and path.parent != self._signs:
            return False
        if path != self._signs:
            self._canary.heard()
        return True

    def root_is_gone(self) -> None:
        """An event said so: what is there now, if anything, is another directory."""
        self._identity = None
        self._look_at = self._clock()

    async def look(self) -> str:
        """See whether all is well; returns why a scan is due, or nothing."""
        if self.due_in_s > 0:
            return ""
        why, findings = await self._in_worker(self._look)
        if self._has_changed:
            self._has_changed = False
            self._on_new_root()
        told, self._told = self._told, findings
        for reason in told:
            if findings.get(reason) != told[reason]:
                self._problems.over(reason)
        for reason in findings:
            if findings[reason] != told.get(reason):
                self._problems.note(reason, *findings[reason])
        self._look_at = self._clock() + (_LOOK_EVERY_WHILE_GONE_S if GONE in findings else _LOOK_EVERY_S)
        return why

    def _look(self) -> tuple[str, _Findings]:
        findings: _Findings = {}
        why = self._look_at_root(findings)
        if GONE not in findings:
            why = self._look_at_watch(findings) or why
        self._is_watching = GONE not in findings and self._watch.is_started
        return why, findings

    def _look_at_root(self, findings: _Findings) -> str:
        path, before, why = self._root.path, self._identity, ""
        identity = self._root.identity()
        if identity is None:
            if not self._is_gone:
                self._watch.drop_all()
            self._identity, self._is_new, self._is_gone = None, False, True
            findings[GONE] = (f"{path} is not there", "")
            return ""
        if identity != before:
            if not self._is_new:
                self._watch.drop_all()
                self._has_changed, why = True, "new-root"
            self._identity, self._is_new, self._is_gone = identity, False, False
            self._first_device = self._first_device or identity[0]
            self._network = network_file_system(path)
        if _is_link(path):
            findings[REPLACED] = (f"{path} is a link now", "systemctl restart neffd")
        elif identity[0] != self._first_device:
            detail = f"{path} is on another file system than at the start: unmounted, or mounted over"
            findings[REPLACED] = (detail, "systemctl restart neffd")
        if self._network is not None:
            findings[NO_EVENTS] = (f"{path} is on a network file system ({self._network}); {_TRUTH}", "")
        return why

    def _look_at_watch(self, findings: _Findings) -> str:
        why = ""
        ended = self._watch.ended()
        still_ended, self._ended = ended & self._ended, ended
        if still_ended:
            findings[MISSING] = (f"a thread of the watcher has ended; {_TRUTH}", "")
            self._stop_watch()
            why = MISSING
        elif self._canary.look():
            log.warning("%s: file events do not arrive", self._root.path)
            if self._clock() >= self._restart_at:
                self._restart_at = self._clock() + _RESTART_EVERY_S
                self._stop_watch()
            why = MISSING
        if not self._watch.is_started:
            try:
                self._watch.start()
            except OSError as error:
                findings[NO_EVENTS] = (f"{error.strerror}; {_TRUTH}", "sysctl fs.inotify.max_user_instances=1024")
                return why
            why = why or "new-watch"
        self._send_sign()
        if self._canary.is_missing:
            findings.setdefault(MISSING, (f"events of our own making do not arrive; {_TRUTH}", ""))
        if self._watch.refused is not None:
            findings[NO_EVENTS] = (f"{self._watch.refused}; {_TRUTH}", "sysctl fs.inotify.max_user_watches=1048576")
        return why

    def _stop_watch(self) -> None:
        self._watch.stop()
        self._canary.again()

    def _send_sign(self) -> None:
        """Make and remove a folder of our own where we watch."""
        if not self._canary.is_due():
            return
        sign = self._signs / "sign"
        try:
            with contextlib.suppress(FileExistsError):
                self._signs.mkdir(mode=0o700)
            if not self._watch.add_folder(self._signs):
                return self._canary.not_sent()
            self._canary.sent()
            with contextlib.suppress(FileExistsError):
                sign.mkdir(mode=0o700)
            sign.rmdir()
        except OSError:  # a full disk, or no staging folder: no fault of the events
            self._watch.drop(self._signs)
            self._canary.not_sent()


def _is_link(path: Path) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        return False
