"""inotify as a hint: tells which folder may have changed, through watchdog; never what is true.

Watched are the cache directory, its namespaces, and entries that are not ready yet: reads of ready entries cost
nothing.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver, ObservedWatch
from watchdog.observers.inotify import InotifyObserver

log = logging.getLogger(__name__)

# Each watch costs a thread; entries beyond this many are covered by the regular looks alone.
MAX_ENTRY_WATCHES = 64
_FOLDERS = [DirCreatedEvent, DirMovedEvent, DirDeletedEvent]
_FILES = [FileCreatedEvent, FileClosedEvent, FileMovedEvent, FileDeletedEvent]
_WATCHDOG_LOGGER = "watchdog.observers.inotify_c"


class Watch:
    """Watches folders of one cache directory.

    Args:
        changed: called, from a watchdog thread, with the path of a folder or file that was made, finished, moved or
        deleted, and whether it is gone.
        lost: called, from a watchdog thread, when the kernel dropped events.

    Every method may wait for a thread of watchdog: not for the event loop.
    """

    def __init__(self, changed: Callable[[Path, bool], None], lost: Callable[[], None]) -> None:
        self._handler = _Handler(changed)
        self._lost = _LostEvents(lost)
        self._observer: BaseObserver | None = None
        # Who is cancelled while the start runs in a worker stops at once, in another.
        self._starting = threading.Lock()
        self._folders: dict[Path, ObservedWatch] = {}
        self._entries: dict[Path, ObservedWatch] = {}

    def start(self) -> None:
        """Start watchdog's threads; raises OSError where the kernel has no inotify instance left."""
        with self._starting:
            self._observer = InotifyObserver()
            logging.getLogger(_WATCHDOG_LOGGER).addHandler(self._lost)
            self._observer.start()

    def stop(self) -> None:
        """Stop watching, also what is only starting; returns when all threads have ended."""
        with self._starting:
            observer, self._observer = self._observer, None
        if observer is not None:
            logging.getLogger(_WATCHDOG_LOGGER).removeHandler(self._lost)
            observer.stop()
            observer.join()

    def add_folder(self, folder: Path) -> bool:
        """Watch the root or a namespace for entries that come and go; false if that is not possible."""
        if folder in self._folders:
            return True
        watch = self._schedule(folder, _FOLDERS)
        if watch is not None:
            self._folders[folder] = watch
        return watch is not None

    def watches(self, folder: Path) -> bool:
        """Whether an entry is watched."""
        return folder in self._entries

    def has_room(self) -> bool:
        """Whether one more entry can be watched."""
        return len(self._entries) < MAX_ENTRY_WATCHES

    def add_entry(self, folder: Path) -> None:
        """Watch an entry on its way to ready, while there is room."""
        if not self.watches(folder) and self.has_room():
            watch = self._schedule(folder, _FILES)
            if watch is not None:
                self._entries[folder] = watch

    def drop(self, folder: Path) -> None:
        """Stop watching a folder: it is of no interest any more, or gone, and another of its name needs a new watch."""
        watch = self._folders.pop(folder, None) or self._entries.pop(folder, None)
        if watch is not None and self._observer is not None:
            self._observer.unschedule(watch)

    def drop_all(self) -> None:
        """Stop watching everything: events that would have said what is gone were lost."""
        for folder in [*self._folders, *self._entries]:
            self.drop(folder)

    def _schedule(self, folder: Path, events: list[type[FileSystemEvent]]) -> ObservedWatch | None:
        if self._observer is None:
            return None
        try:
            return self._observer.schedule(self._handler, str(folder), event_filter=events)
        except (OSError, RuntimeError) as error:  # no such folder, no watch left, no thread left
            log.debug("cannot watch %s: %s", folder, error)
            return None


class _Handler(FileSystemEventHandler):
    def __init__(self, changed: Callable[[Path, bool], None]) -> None:
        self._changed = changed

    def on_any_event(self, event: FileSystemEvent) -> None:
        is_gone = isinstance(event, (DirDeletedEvent, DirMovedEvent))
        self._changed(Path(os.fsdecode(event.src_path)), is_gone)
        if event.dest_path:
            self._changed(Path(os.fsdecode(event.dest_path)), False)


class _LostEvents(logging.Handler):
    """watchdog only logs it when the kernel's queue overflows."""

    def __init__(self, lost: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._lost = lost

    def emit(self, record: logging.LogRecord) -> None:
        if "overflow" in record.getMessage().lower():
            self._lost()
