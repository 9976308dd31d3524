"""`install()` and `uninstall()`: one hook a process, set now or when libneuronxla's module appears."""

from __future__ import annotations

import os
import sys
import threading
from types import ModuleType

from neff import forks, tally
from neff.asking import Asker
from neff.hook import CACHE_MODULE, Hook
from neff.importhook import PostImportFinder
from neff.notices import Notices
from neff.used import UsedReports


class Installation:
    """The process's hook, if there is one. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._notices = Notices()
        self._hook: Hook | None = None
        self._finder = PostImportFinder(CACHE_MODULE, self._imported)
        forks.watch(self)

    def after_fork_in_child(self) -> None:
        """The lock may have been held by a thread that the child does not have."""
        self._lock = threading.RLock()

    def install(self, socket_path: str | None = None) -> bool:
        """See `neff.install`."""
        if os.environ.get("NEFF_DISABLE", "") not in ("", "0"):
            return False
        with self._lock:
            if self._hook is None:
                self._hook = self._make_hook(socket_path)
            elif socket_path is not None and socket_path != self._hook.asker.socket_path:
                self._hook.asker.close()
                self._hook.asker = Asker(socket_path, notices=self._notices)
            hook = self._hook
            # First the finder, then the look: an import in between is noticed by one of the two.
            self._finder.install()
        module = sys.modules.get(CACHE_MODULE)
        if getattr(getattr(module, "__spec__", None), "_initializing", False):
            # Another thread is in the middle of importing it, without our finder: this waits until it is there.
            hook.shielded(__import__, CACHE_MODULE)
        if module is not None:
            self._imported(module)
        return True

    def _make_hook(self, socket_path: str | None) -> Hook:
        hook = Hook(Asker(socket_path, notices=self._notices), self._notices, tally.of_environment())
        # By way of the hook: another socket is another asker.
        hook.used = UsedReports(lambda: hook.asker.socket_path, is_well=lambda: hook.asker.is_well)
        return hook

    @property
    def socket_path(self) -> str | None:
        """Of the daemon, where `install` was told it."""
        hook = self._hook
        return None if hook is None else hook.asker.socket_path

    def run_changes(self) -> None:
        """Another run begins, or this one ends: what was noted so far belongs to the one before."""
        hook = self._hook
        if hook is not None and hook.used is not None:
            hook.shielded(hook.used.finish)

    def uninstall(self) -> None:
        """See `neff.uninstall`."""
        with self._lock:
            self._finder.uninstall()
            hook, self._hook = self._hook, None
        if hook is not None:
            hook.unpatch()

    def _imported(self, module: ModuleType) -> None:
        with self._lock:
            if self._hook is not None:
                self._hook.shielded(self._hook.patch, module)


INSTALLATION = Installation()
