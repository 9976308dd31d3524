"""What a trainer's questions share: connections, remembered answers, the back-off, what has been said.

One connection a thread and cache directory; none is ever used by a forked child. One remembered answer a key and
process. A daemon that fails is left alone for a while, by all threads together, and the reason is said once.
"""

from __future__ import annotations

import threading
import weakref

from neff import forks, greeting
from neff.backoff import BackOff
from neff.connection import Connection, connect, socket_candidates
from neff.errors import DaemonError, LostError, SilentError
from neff.keys import ModuleName
from neff.notices import Notices
from neff.patience import CONNECT_S, FetchPatience
from neff.protocol import ABSENT, READY
from neff.waits import Waits

# Reasons of a miss that somebody can do something about; the others are everyday life.
_WORTH_SAYING = frozenset({"remote-unavailable", "refused", "cannot-share", "disk", "other-cache-dir", "no-cache-dir"})
# What keeps a daemon from serving as asked, and what that means for this process.
_CANNOT_SERVE = {
    "other-cache-dir": "this process's cache directory {root} is none that the daemon at {path} manages; "
    "its graphs are compiled and not shared: add it to cache_dirs",
    "repo-not-configured": "the daemon at {path} does not use the Hub repo that this environment names; "
    "everything else works",
}
_LOCKED = "locked"
_STOPPING = "stopping"
_GAVE_UP = "gave-up"

_Question = tuple[str, ModuleName]


class _NotNowError(DaemonError):
    """Another thread is at it, or has just failed: nothing new about the daemon."""


class Asker:
    """Asks the daemon whether modules can be had. Thread-safe."""

    def __init__(
        self, socket_path: str | None = None, *, waits: Waits | None = None, notices: Notices | None = None
    ) -> None:
        self.socket_path = socket_path
        self._waits = waits or Waits()
        self._notices = notices or Notices()
        self._backoff = BackOff()
        self._settled: dict[_Question, str] = {}
        self._start_without_connections()
        forks.watch(self)

    def _start_without_connections(self) -> None:
        self._contact_lock = threading.Lock()  # held while a connection is made: one attempt at a time
        self._state_lock = threading.Lock()  # around the back-off; never held while waiting
        self._of_thread = threading.local()
        self._open: weakref.WeakSet[Connection] = weakref.WeakSet()

    def after_fork_in_child(self) -> None:
        """Closes the child's copies, so that the parent's connection ends with the parent."""
        inherited = list(self._open)
        self._start_without_connections()
        for connection in inherited:
            connection.close()

    def close(self) -> None:
        """Close the connections of all threads."""
        for connection in list(self._open):
            connection.close()

    def is_ready(self, root: str, name: ModuleName, *, holding: bool) -> bool:
        """Whether the daemon says that module `name` is now in the cache directory `root`; waits while it fetches.

        `holding` says that this very process holds the module's lock. Never raises a DaemonError: whatever goes
        wrong with the daemon is a plain no.
        """
        question = (root, name)
        if question in self._settled:
            return self._settled[question] == READY
        started_s = self._waits.now_s()
        with self._state_lock:
            if not self._backoff.admits(started_s):
                return False
        patience: FetchPatience | None = None
        try:
            connection = self._connection(root, started_s)
            patience = FetchPatience(self._waits.now_s())
            answer = self._ask(connection, root, name, holding, patience)
        except _NotNowError:
            return False
        except DaemonError as error:
            self._failed(question, error, patience, started_s)
            return False
        return self._settle(question, answer, started_s)

    def lock_taken(self, root: str, name: ModuleName) -> None:
        """This process has the module's lock now: that somebody else held it is no answer any more."""
        if self._settled.get((root, name)) == _LOCKED:
            self._settled.pop((root, name), None)

    def _settle(self, question: _Question, answer: str, started_s: float) -> bool:
        if answer in _WORTH_SAYING:
            self._notices.say(answer, f"{question[1]} could not be had from the daemon")
        with self._state_lock:
            if answer == _STOPPING:
                # Says nothing about the key: the next daemon may know better.
                self._backoff.failed(started_s, self._waits.now_s())
                return False
            self._backoff.succeeded()
        self._settled[question] = answer
        return answer == READY

    def _failed(
        self, question: _Question, error: DaemonError, patience: FetchPatience | None, started_s: float
    ) -> None:
        if isinstance(error, SilentError) and patience is not None:
            # This caller has waited once for this key and compiles; the second look that it takes must not wait again.
            self._settled[question] = _GAVE_UP
            if not patience.is_hung(self._waits.now_s()):
                return  # the daemon is fine, only this fetch was too slow
        self._leave_alone(error, started_s)

    def _leave_alone(self, error: DaemonError, started_s: float) -> None:
        with self._state_lock:
            self._backoff.failed(started_s, self._waits.now_s())
        self._notices.say(error.reason, f"{error}; graphs that are not in the local cache are compiled")

    def _ask(self, connection: Connection, root: str, name: ModuleName, holding: bool, patience: FetchPatience) -> str:
        try:
            return self._ask_once(connection, name, holding, patience)
        except LostError:
            if not connection.was_used:
                raise
            # It ended since the last question: a restarted daemon. Worth one new connection.
        connection = self._connection(root, self._waits.now_s())
        return self._ask_once(connection, name, holding, patience)

    def _ask_once(self, connection: Connection, name: ModuleName, holding: bool, patience: FetchPatience) -> str:
        """READY, or the reason of the miss."""
        fields = {"namespace": name.namespace, "keys": [name.key], "holding": [name.key] if holding else []}
        complete = False
        try:
            for message in connection.answers("resolve", fields, patience):
                state = message.get("state") if message.get("key") == name.key else None
                if state in (READY, ABSENT):
                    complete = True
                    return READY if state == READY else str(message.get("reason"))
            complete = True
            return "no-answer"
        finally:
            # A question left in the middle, be it by Ctrl-C, is withdrawn by closing.
            connection.was_used = complete or connection.was_used
            if not complete:
                connection.close()

    def _connection(self, root: str, started_s: float) -> Connection:
        """This thread's connection for `root`, made if need be; raises DaemonError."""
        identity = greeting.identity_of(root)
        of_thread: dict[str, tuple[greeting.Identity, Connection]] = self._of_thread.__dict__
        known = of_thread.get(root)
        if known is not None and known[0] == identity and not known[1].is_closed:
            return known[1]
        connection = self._contact(greeting.of_trainer(root, identity), started_s)
        of_thread[root] = (identity, connection)
        return connection

    def _contact(self, hello: dict[str, object], started_s: float) -> Connection:
        # Bounded, also because a signal handler may ask in the middle of this thread's own attempt.
        if not self._contact_lock.acquire(timeout=2 * CONNECT_S):
            raise _NotNowError("busy", "other threads are connecting")
        try:
            with self._state_lock:
                if self._backoff.failed_since(started_s):
                    raise _NotNowError("just-failed", "another thread could not reach the daemon")
            connection = connect(socket_candidates(self.socket_path), hello, self._waits, CONNECT_S)
        except _NotNowError:
            raise
        except DaemonError as error:
            # Before the lock goes: the threads behind it must not try the same again.
            self._leave_alone(error, started_s)
            raise
        finally:
            self._contact_lock.release()
        self._open.add(connection)
        if connection.reason is not None:
            text = _CANNOT_SERVE.get(connection.reason, "the daemon at {path} cannot serve as asked")
            self._notices.say(connection.reason, text.format(path=connection.path, root=hello["root"]))
        return connection
