"""What a trainer's questions share: connections, remembered answers, the back-off, what has been said.

One connection a thread and cache directory; none is ever used by a forked child. One remembered answer a key and
process. A daemon that fails, or costs more than it brings, is left alone for a while, by all threads together, and the
reason is said once.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import TypeVar

from neff import forks, greeting
from neff.backoff import BackOff
from neff.budget import WaitingBudget
from neff.connection import Connection, connect, post, socket_candidates
from neff.errors import DaemonError, LostError, RefusedError, SilentError
from neff.keys import LockId, ModuleName
from neff.notices import Notices, who_compiles
from neff.patience import CONNECT_S, WAIT_SILENCE_S, FetchPatience, SilencePatience
from neff.protocol import ABSENT, FREE, READY, Message
from neff.waits import Waits

# Reasons of a miss that somebody can do something about; the others are everyday life.
_WORTH_SAYING = frozenset(
    {"remote-unavailable", "refused", "cannot-share", "disk", "disk-nearly-full", "other-cache-dir", "no-cache-dir"}
)
# What keeps a daemon from serving as asked, and what that means for this process.
_CANNOT_SERVE = {
    "other-cache-dir": "this process's cache directory {root} is none that the daemon at {path} manages; "
    "its graphs are compiled and not shared: add it to cache_dirs",
    "repo-not-configured": "the daemon at {path} does not use the Hub repo that this environment names; "
    "everything else works",
}
_LOCKED = "locked"
_STOPPING = "stopping"
_FAILED_BEFORE = "failed-before"
_GAVE_UP = "gave-up"
_SILENT = "silent"
_TOO_SLOW = "too-slow"
_ITS_FAULT = "internal-error"  # of the daemon; no word about any other question
_TELL_EVERY_S = 60.0

# Where the daemon does not let a caller wait, or cannot see what the caller sees.
_MUTED_S = 5.0

_Question = tuple[str, ModuleName]
_Result = TypeVar("_Result")


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
        self._backoff = BackOff()  # a forked child goes on with these two as they are
        self._budget = WaitingBudget()
        self._settled: dict[_Question, str] = {}
        self.arrivals: dict[ModuleName, Message] = {}  # what was said of modules that came from a remote
        self._muted_until_s: dict[_Question, float] = {}
        self._start_without_connections()
        forks.watch(self)

    def _start_without_connections(self) -> None:
        self._contact_lock = threading.Lock()  # held while a connection is made: one attempt at a time
        # Around back-off, budget and counts, never held while waiting; a signal handler may ask within.
        self._state_lock = threading.RLock()
        self._of_thread = threading.local()
        self._open: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._locks: dict[_Question, Message] = {}  # as they are told
        self._failures: dict[str, int] = {}
        self._is_silent = False  # what failed last was that the daemon did not answer

    def after_fork_in_child(self) -> None:
        """The connections of the parent's threads are none of the child's, and closed there already."""
        self._start_without_connections()

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._state_lock:
            connections = list(self._open)
        for connection in connections:
            connection.close()

    @property
    def is_well(self) -> bool:
        """Whether nothing has failed since the daemon last answered."""
        return self._backoff.is_well

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
            if not self._budget.left_s(started_s) or not self._backoff.admits(started_s):
                return False
        patience: FetchPatience | None = None
        answer: str | None = None
        try:
            alive_s = self._connection(root, started_s).alive_s
            patience = limit = self._new_patience(alive_s)
            answer = self._with_connection(
                root, started_s, lambda connection: self._ask_once(connection, name, holding, limit)
            )
        except _NotNowError:
            return False
        except DaemonError as error:
            self._failed(question, error, patience, started_s)
            return False
        finally:
            if patience is not None:
                self._account(patience.asked_s, brought=answer == READY)
        return self._settle(question, answer, started_s)

    def lock_taken(self, root: str, name: ModuleName, lock: LockId) -> None:
        """This process has the module's lock now, the file `lock`: tell the daemon, which watches over it.

        That somebody else held it is no answer any more.
        """
        if self._settled.get((root, name)) == _LOCKED:
            self._settled.pop((root, name), None)
        # A daemon that is starved reads it later, and a new one is told again: the clock is the machine's.
        told = {**_of_lock(name, lock), "at_ns": time.monotonic_ns()}
        self._tell(root, "holding", told)
        self._locks[root, name] = told  # from now on every new connection tells it

    def lock_released(self, root: str, name: ModuleName, lock: LockId) -> None:
        """That lock is gone: whoever waits for it should know."""
        if self._locks.pop((root, name), None) is not None:
            self._tell(root, "released", _of_lock(name, lock))

    def wait_for_lock(self, root: str, name: ModuleName, *, is_there: Callable[[], bool] = lambda: True) -> str | None:
        """Wait until the lock of module `name` is gone; READY, FREE, or None where the daemon cannot tell.

        As long as its holder lives there is no limit, as there is none without us; once a minute the wait is told.
        `is_there` says whether this process still sees the lock: the daemon may look at another directory.
        """
        question, started_s = (root, name), self._waits.now_s()
        if started_s < self._muted_until_s.get(question, started_s):
            return None
        with self._state_lock:
            if not self._backoff.admits(started_s):
                return None
        try:
            end = self._with_connection(root, started_s, lambda connection: self._wait_once(connection, name, is_there))
        except _NotNowError:
            return None
        except DaemonError as error:
            self._leave_alone(error, started_s)
            return None
        if end not in (READY, FREE):
            self.mute(root, name)
            return None
        with self._state_lock:
            self._backoff.succeeded()
        return end

    def mute(self, root: str, name: ModuleName) -> None:
        """Do not wait for this module for a moment: stock looks for itself."""
        self._muted_until_s[root, name] = self._waits.now_s() + _MUTED_S

    def pause(self, seconds: float) -> None:
        """Let another process go first."""
        self._waits.wait_ready(None, seconds)

    def count_failure(self, reason: str) -> None:
        """Note that a question could not be put; the daemon is told with the next greeting."""
        with self._state_lock:
            self._failures[reason] = self._failures.get(reason, 0) + 1

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
            self.count_failure(_GAVE_UP)
            if not patience.is_hung(self._waits.now_s()):
                return  # the daemon lives, and is only too slow for what we can afford
        self._leave_alone(error, started_s)

    def _leave_alone(self, error: DaemonError, started_s: float) -> None:
        with self._state_lock:
            if not self._backoff.failed_since(started_s):
                self._failures[error.reason] = self._failures.get(error.reason, 0) + 1
            self._backoff.failed(started_s, self._waits.now_s())
            self._is_silent = error.reason == _SILENT
        self._notices.say(error.reason, f"{error}; graphs that are not in the local cache are compiled")

    def _new_patience(self, alive_s: float | None) -> FetchPatience:
        now_s = self._waits.now_s()
        with self._state_lock:
            left_s = self._budget.left_s(now_s)
        if not left_s:
            raise _NotNowError(_TOO_SLOW, "nothing is left to wait with")
        return FetchPatience(now_s, alive_s, left_s)

    def _account(self, began_s: float, *, brought: bool = False) -> None:
        """A wait has ended that began at `began_s`; whether it brought an entry."""
        now_s = self._waits.now_s()
        with self._state_lock:
            if brought:
                self._budget.restore()
                return
            is_spent = self._budget.wasted(now_s - began_s, now_s)
            if not is_spent or not self._backoff.is_well:
                return  # why a failed daemon is left alone is said already
        self.count_failure(_TOO_SLOW)
        self._notices.say(
            _TOO_SLOW,
            "waiting for the daemon has brought too little lately; for a while it is not asked, "
            "and graphs that are not in the local cache are compiled",
        )
        for _, connection in self._of_thread.__dict__.values():
            connection.close()  # failures are told with a greeting

    def _with_connection(self, root: str, started_s: float, do: Callable[[Connection], _Result]) -> _Result:
        connection = self._connection(root, started_s)
        try:
            return do(connection)
        except LostError:
            if not connection.was_used:
                raise
            connection.close()
            # It ended since the last question: a restarted daemon. Worth one new connection.
        return do(self._connection(root, self._waits.now_s()))

    def _tell(self, root: str, op: str, fields: Message) -> None:
        """Without waiting for an answer. A daemon that is silent or slow may be starved: it finds the message later."""
        started_s = self._waits.now_s()
        with self._state_lock:
            is_well, is_silent = self._backoff.is_well, self._is_silent
            is_slow = not self._budget.left_s(started_s)
        if is_well and not is_slow:
            try:
                self._with_connection(root, started_s, lambda connection: connection.tell(op, fields))
            except _NotNowError:
                is_silent = True
            except DaemonError as error:
                self._leave_alone(error, started_s)
                is_silent = error.reason == _SILENT
            else:
                return
        if is_silent or is_slow:
            hello = greeting.of_trainer(root, greeting.identity_of(root))
            post(socket_candidates(self.socket_path), [{"hello": hello}, {"id": 1, "op": op, **fields}], self._waits)

    def _wait_once(self, connection: Connection, name: ModuleName, is_there: Callable[[], bool]) -> str:
        """How the wait ended, or another word where the daemon does not let us wait."""
        if "wait" not in connection.capabilities:
            return "unsupported"
        tell_at_s = self._waits.now_s() + _TELL_EVERY_S
        complete = False
        try:
            patience = SilencePatience(self._waits.now_s(), WAIT_SILENCE_S)
            for message in connection.answers("wait", {"namespace": name.namespace, "key": name.key}, patience):
                if message.get("done") is True:
                    complete = True
                    return str(message.get("state"))
                if not is_there():
                    return FREE
                if self._waits.now_s() >= tell_at_s:
                    tell_at_s = self._waits.now_s() + _TELL_EVERY_S
                    self._notices.report(who_compiles(name, message))
            return "no-answer"
        except RefusedError as error:
            complete = error.reason == _ITS_FAULT
            return _of_this_alone(error)
        finally:
            # A wait left in the middle, be it by Ctrl-C, is withdrawn by closing.
            connection.was_used = complete or connection.was_used
            if not complete:
                connection.close()

    def _ask_once(self, connection: Connection, name: ModuleName, holding: bool, patience: FetchPatience) -> str:
        """READY, or the reason of the miss."""
        fields = {"namespace": name.namespace, "keys": [name.key], "holding": [name.key] if holding else []}
        complete = False
        try:
            for message in connection.answers("resolve", fields, patience):
                state = message.get("state") if message.get("key") == name.key else None
                if state in (READY, ABSENT):
                    complete = True
                    if state == READY and message.get("source") is not None:
                        self.arrivals[name] = message
                    if state == ABSENT and message.get("reason") == _FAILED_BEFORE:
                        self._notices.say(_FAILED_BEFORE, f"{name.key} failed to compile before: {message.get('text')}")
                    return READY if state == READY else str(message.get("reason"))
            complete = True
            return "no-answer"
        except RefusedError as error:
            complete = error.reason == _ITS_FAULT
            return _of_this_alone(error)
        finally:
            # A question left in the middle, be it by Ctrl-C, is withdrawn by closing.
            connection.was_used = complete or connection.was_used
            if not complete:
                connection.close()

    def _connection(self, root: str, started_s: float) -> Connection:
        """This thread's connection for `root`, made if need be; raises DaemonError."""
        told_as = greeting.told_as(root)
        of_thread: dict[str, tuple[greeting.ToldAs, Connection]] = self._of_thread.__dict__
        known = of_thread.get(root)
        if known is not None and known[0] == told_as and not known[1].is_closed:
            return known[1]
        connection = self._contact(greeting.of_trainer(root, told_as.identity), started_s)
        of_thread[root] = (told_as, connection)
        return connection

    def _contact(self, hello: dict[str, object], started_s: float) -> Connection:
        # Bounded, also because a signal handler may ask in the middle of this thread's own attempt.
        began_s = self._waits.now_s()
        turn = self._contact_lock
        if not turn.acquire(timeout=2 * CONNECT_S):
            # A signal may have ended its holder before it could be given back: the next one has another.
            self._contact_lock = threading.Lock()
            self._account(began_s)
            raise _NotNowError("busy", "other threads are connecting")
        try:
            with self._state_lock:
                if self._backoff.failed_since(started_s):
                    raise _NotNowError("just-failed", "another thread could not reach the daemon")
            with self._state_lock:
                failures = dict(self._failures)
            if failures:
                hello = {**hello, "failures": failures}
            connection = connect(socket_candidates(self.socket_path), hello, self._waits, CONNECT_S)
            self._are_told(failures)  # before the next thread greets: each failure is told once
        except _NotNowError:
            raise
        except DaemonError as error:
            # Before the lock goes: the threads behind it must not try the same again.
            self._leave_alone(error, started_s)
            raise
        finally:
            turn.release()
            self._account(began_s)
        with self._state_lock:
            self._open.add(connection)
        self._introduce(connection, str(hello["root"]))
        if connection.reason is not None:
            text = _CANNOT_SERVE.get(connection.reason, "the daemon at {path} cannot serve as asked")
            self._notices.say(connection.reason, text.format(path=connection.path, root=hello["root"]))
        return connection

    def _are_told(self, failures: dict[str, int]) -> None:
        with self._state_lock:
            for reason, count in failures.items():
                self._failures[reason] -= count
                if not self._failures[reason]:
                    del self._failures[reason]

    def _introduce(self, connection: Connection, root: str) -> None:
        """What a daemon that has just greeted does not know yet."""
        for (of_root, _), told in list(self._locks.items()):
            if of_root == root and not connection.is_closed:
                try:
                    connection.tell("holding", told)
                except LostError:
                    return


def _of_this_alone(error: RefusedError) -> str:
    """A daemon that says of its own fault lives, and says nothing of other modules."""
    if error.reason != _ITS_FAULT:
        raise error
    return error.reason


def _of_lock(name: ModuleName, lock: LockId) -> Message:
    return {"namespace": name.namespace, "key": name.key, "inode": lock.inode, "ctime_ns": lock.ctime_ns}
