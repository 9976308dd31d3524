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
# Threads that have not ended by then hang, and are left behind: they end with the process.
_STOP_S = 5.0


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
        self._refused: dict[Path, str] = {}

    @property
    def refused(self) -> str | None:
        """Why the kernel gave no watch for some folder when it was last asked."""
        return next(iter(list(self._refused.values())), None)

    @property
    def is_started(self) -> bool:
        """Whether there are threads of watchdog, alive or not."""
        return self._observer is not None

    def ended(self) -> set[str]:
        """What is not watched any more, since a thread of watchdog has ended; of a folder that is gone, it does so."""
        observer = self._observer
        if observer is None:
            return set()
        emitters = [emitter for emitter in list(observer.emitters) if not emitter.is_alive()]
        return {str(emitter.watch.path) for emitter in emitters} | (set() if observer.is_alive() else {"everything"})

    def start(self) -> None:
        """Start watchdog's threads; raises OSError where the kernel has no inotify instance left."""
        with self._starting:
            observer = InotifyObserver()
            logging.getLogger(_WATCHDOG_LOGGER).addHandler(self._lost)
            observer.start()
            self._observer = observer

    def stop(self) -> None:
        """Stop watching, also what is only starting; returns when all threads have ended, or hang."""
        with self._starting:
            observer, self._observer = self._observer, None
            self._folders, self._entries, self._refused = {}, {}, {}
        if observer is not None:
            logging.getLogger(_WATCHDOG_LOGGER).removeHandler(self._lost)
            ending = threading.Thread(target=_end, args=(observer,), name="neffd-watch-end", daemon=True)
            ending.start()
            ending.join(_STOP_S)
            if ending.is_alive():
                log.warning("threads of the watcher do not end; they are left behind")

    def add_folder(self, folder: Path) -> bool:
        """Watch the root or a namespace for entries that come and go; false if that is not possible."""
        if folder in self._folders:
            return True
        watch = self._schedule(folder, _FOLDERS)
        if watch is not None:
            self._folders[folder] = watch
            self._refused.pop(folder, None)
        return watch is not None

    def watches(self, folder: Path) -> bool:
        """Whether an entry is watched."""
        return folder in self._entries

    @property
    def has_entries(self) -> bool:
        """Whether any entry is watched; asked for each entry of a scan, so without its path."""
        return bool(self._entries)

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
        self._refused.pop(folder, None)
        watch = self._folders.pop(folder, None) or self._entries.pop(folder, None)
        if watch is not None and self._observer is not None:
            self._observer.unschedule(watch)

    def drop_all(self) -> None:
        """Stop watching everything: events that would have said what is gone were lost."""
        for folder in [*self._folders, *self._entries, *self._refused]:
            self.drop(folder)

    def _schedule(self, folder: Path, events: list[type[FileSystemEvent]]) -> ObservedWatch | None:
        if self._observer is None:
            return None
        try:
            return self._observer.schedule(self._handler, str(folder), event_filter=events)
        except (OSError, RuntimeError) as error:  # no such folder, no watch left, no thread left
            log.debug("cannot watch %s: %s", folder, error)
            if events is _FOLDERS and not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                self._refused[folder] = str(error)
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


def _end(observer: BaseObserver) -> None:
    observer.stop()
    observer.join()
