"""inotify as a hint: tells which folder may have changed, through watchdog; never what is true.

Watched are the cache directory, its namespaces, and entries that are not ready yet: reads of ready entries cost
nothing.
"""

from __future__ import annotations

import logging
import os
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
from watchdog.observers.api import ObservedWatch
from watchdog.observers.inotify import InotifyObserver

log = logging.getLogger(__name__)

# Each watch costs a thread; entries beyond this many are covered by the regular second look alone.
MAX_ENTRY_WATCHES = 64
_FOLDERS = [DirCreatedEvent, DirMovedEvent, DirDeletedEvent]
_FILES = [FileCreatedEvent, FileClosedEvent, FileMovedEvent, FileDeletedEvent]
_WATCHDOG_LOGGER = "watchdog.observers.inotify_c"


class Watch:
    """Watches folders of one cache directory.

    Args:
        changed: called, from a watchdog thread, with the path of a folder or file that was made, finished, moved or
        deleted.
        lost: called, from a watchdog thread, when the kernel dropped events.
    """

    def __init__(self, changed: Callable[[Path], None], lost: Callable[[], None]) -> None:
        self._handler = _Handler(changed)
        self._lost = _LostEvents(lost)
        self._observer = InotifyObserver()
        self._folders: dict[Path, ObservedWatch] = {}
        self._entries: dict[Path, ObservedWatch] = {}

    def start(self) -> None:
        """Start watchdog's threads."""
        logging.getLogger(_WATCHDOG_LOGGER).addHandler(self._lost)
        self._observer.start()

    def stop(self) -> None:
        """Stop watching; returns when all threads have ended."""
        logging.getLogger(_WATCHDOG_LOGGER).removeHandler(self._lost)
        self._observer.stop()
        self._observer.join()

    def add_folder(self, folder: Path) -> bool:
        """Watch the root or a namespace for entries that come and go; false if that is not possible."""
        if folder in self._folders:
            return True
        watch = self._schedule(folder, _FOLDERS)
        if watch is not None:
            self._folders[folder] = watch
        return watch is not None

    def add_entry(self, folder: Path) -> None:
        """Watch an entry on its way to ready, while there is room."""
        if folder not in self._entries and len(self._entries) < MAX_ENTRY_WATCHES:
            watch = self._schedule(folder, _FILES)
            if watch is not None:
                self._entries[folder] = watch

    def drop_entry(self, folder: Path) -> None:
        """Stop watching an entry."""
        watch = self._entries.pop(folder, None)
        if watch is not None:
            self._observer.unschedule(watch)

    def forget_folder(self, folder: Path) -> None:
        """A namespace is gone; a new one of the same name is watched afresh."""
        watch = self._folders.pop(folder, None)
        if watch is not None:
            self._observer.unschedule(watch)

    def _schedule(self, folder: Path, events: list[type[FileSystemEvent]]) -> ObservedWatch | None:
        try:
            return self._observer.schedule(self._handler, str(folder), event_filter=events)
        except OSError as error:
            log.debug("cannot watch %s: %s", folder, error)
            return None


class _Handler(FileSystemEventHandler):
    def __init__(self, changed: Callable[[Path], None]) -> None:
        self._changed = changed

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._changed(Path(os.fsdecode(event.src_path)))
        if event.dest_path:
            self._changed(Path(os.fsdecode(event.dest_path)))


class _LostEvents(logging.Handler):
    """watchdog only logs it when the kernel's queue overflows."""

    def __init__(self, lost: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._lost = lost

    def emit(self, record: logging.LogRecord) -> None:
        if "overflow" in record.getMessage().lower():
            self._lost()
