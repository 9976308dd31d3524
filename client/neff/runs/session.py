"""`neff.session`: a run named from inside the trainer. It fails open: whatever goes wrong here, the trainer goes on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from neff import forks
from neff.errors import HandlerError
from neff.handlers import is_of_handler
from neff.installation import INSTALLATION
from neff.notices import Notices
from neff.protocol import Message
from neff.runs import marker
from neff.runs.ingredients import describe
from neff.runs.launcher import Launcher

_NOTICES = Notices()


class Session:
    """A run for the length of a `with` statement. Not to be entered twice at once.

    Attributes:
        key: the run key; None before it is entered, and where none could be made.
        ingredients: what the key is the digest of, or None.
        summary: what the daemon said of the run at its end, or None.
    """

    def __init__(self, prefetch: bool = True, **given: Any) -> None:
        self.key: str | None = None
        self.ingredients: Mapping[str, Any] | None = None
        self.summary: Message | None = None
        self._prefetch = prefetch
        self._given = given
        self._pid = 0
        self._text: str | None = None
        self._launcher: Launcher | None = None

    def __enter__(self) -> Session:
        try:
            self._shielded(self._enter)
        except BaseException:  # Ctrl-C, or the trainer's own time limit: who has not entered never leaves
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shielded(self._exit)

    def _enter(self) -> None:
        if not INSTALLATION.install():
            return
        described = describe(**self._given)
        self.key, self.ingredients = described.key, described.ingredients
        outer = marker.of_environment()
        if outer is not None and outer.key == described.key:
            return  # a part of a run that somebody else has begun, and will end
        instance = marker.new_instance(described.key, os.environ)
        run = marker.Run(described.key, instance, described.ingredients, described.is_private, self._prefetch)
        INSTALLATION.run_changes()
        self._pid, self._text = os.getpid(), marker.to_text(run)
        _OPEN.enter(self._text)
        if marker.leads(os.environ):
            self._launcher = Launcher(run, INSTALLATION.socket_path)
            self._launcher.begin(prefetch=self._prefetch)

    def _exit(self) -> None:
        launcher = self._leave()
        if launcher is not None and os.getpid() == self._pid:
            self.summary = launcher.end()

    def _leave(self) -> Launcher | None:
        """From here on nothing in this process belongs to the run; returns who has still to tell the daemon."""
        text, self._text = self._text, None
        launcher, self._launcher = self._launcher, None
        if text is not None:
            try:
                INSTALLATION.run_changes()
            finally:
                _OPEN.leave(text)
        return launcher

    def _shielded(self, do: Callable[[], None]) -> None:
        try:
            return do()
        except HandlerError as passed:
            of_trainer = passed.error
        except Exception as error:
            if is_of_handler(error):
                raise
            try:
                _NOTICES.say("no-run-key", f"this run is not recorded under a key: {error}")
            except Exception:  # a logger that is broken or already taken down
                return
            return
        raise of_trainer


class _OpenRuns:
    """The runs that are open in this process, the innermost last: the environment names that one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before: str | None = None
        self._texts: list[str] = []
        forks.watch(self)

    def after_fork_in_child(self) -> None:
        """The lock may have been held by a thread that the child does not have."""
        self._lock = threading.Lock()

    def enter(self, text: str) -> None:
        """A run begins."""
        with self._lock:
            if not self._texts:
                self._before = os.environ.get(marker.VARIABLE)
            self._texts.append(text)
            os.environ[marker.VARIABLE] = text

    def leave(self, text: str) -> None:
        """A run ends, in whatever order; the environment names the innermost that is left, or what was there first."""
        with self._lock:
            if text not in self._texts:
                return  # ended by a signal before it was noted
            self._texts.remove(text)
            rest = self._texts[-1] if self._texts else self._before
            if rest is None:
                os.environ.pop(marker.VARIABLE, None)
            else:
                os.environ[marker.VARIABLE] = rest


_OPEN = _OpenRuns()
