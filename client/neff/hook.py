"""The hook: libneuronxla's file cache asks the daemon before a graph is compiled.

It wraps methods of the class `CompileCacheFs`, because every user of the cache passes there: the factory is replaced
and put back by others, and optimum-neuron builds the class itself. Only a miss of a module's ready mark asks; after
"ready" the original method looks again, and what it says is what the caller gets.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from neff import forks
from neff.asking import Asker
from neff.cachedir import local_path
from neff.errors import HandlerError
from neff.handlers import is_of_handler, pass_on
from neff.keys import LockId, ModuleName, is_module_key, is_namespace, ready_mark
from neff.notices import Notices
from neff.protocol import READY
from neff.tally import Tally, seconds_of
from neff.used import UsedReports

CACHE_MODULE = "libneuronxla.neuron_cc_cache"
CACHE_CLASS = "CompileCacheFs"

_Method = Callable[..., Any]
_Result = TypeVar("_Result")
_MARKS = ("model.done", "model.neff")
_TRIES = 50


class Hook:
    """The wrapped methods and what they need to know of this process."""

    def __init__(
        self, asker: Asker, notices: Notices, tally: Tally | None = None, used: UsedReports | None = None
    ) -> None:
        self.asker = asker
        self.used = used
        self._tally = tally
        self._notices = notices
        self._active = True
        self._patches: list[_Patch] = []
        self._held: dict[_Module, LockId] = {}
        self._of_thread = threading.local()
        forks.watch(self)

    def after_fork_in_child(self) -> None:
        """The locks that the parent made are not the child's."""
        self._held.clear()

    def patch(self, module: ModuleType) -> None:
        """Wrap the cache class of libneuronxla's module; methods that this version does not have are left out."""
        cls = getattr(module, CACHE_CLASS, None)
        if not isinstance(cls, type) or any(patch.cls is cls for patch in self._patches):
            return
        self._wrap(cls, "exists", self._wrap_exists)
        self._wrap(cls, "hlo_acquire_lock", self._wrap_acquire)
        self._wrap(cls, "hlo_release_lock", self._wrap_release)
        # Where they are defined: others derive classes of their own from the base class.
        self._wrap(_definer(cls, "lookup"), "lookup", self._wrap_lookup)
        self._wrap(_definer(cls, "try_lookup_for_compile"), "try_lookup_for_compile", self._wrap_try_lookup)

    def _wrap(self, cls: type, name: str, wrap: Callable[[_Method], _Method]) -> None:
        original = getattr(cls, name, None)
        if callable(original) and not _is_static(cls, name):
            patch = _Patch(cls, name, vars(cls).get(name), wrap(original))
            setattr(cls, name, patch.wrapper)
            self._patches.append(patch)

    def unpatch(self) -> None:
        """Put the originals back. Where somebody wrapped our wrapper, it stays in between and does nothing."""
        self._active = False
        while self._patches:
            self._patches.pop().undo()
        if self.used is not None:
            self.shielded(self.used.finish)
        self.asker.close()

    def shielded(self, function: Callable[..., _Result], *args: Any) -> _Result | None:
        """Call our own code on behalf of the trainer: the one place where every failure of ours ends.

        Whatever it is, compiling without the daemon is better than a trainer that dies of its cache. Ctrl-C is not a
        failure and passes, and so does what a signal handler of the trainer raises meanwhile.
        """
        try:
            return function(*args)
        except HandlerError as passed:
            of_trainer = passed.error
        except Exception as error:
            if is_of_handler(error):
                raise
            try:
                self.asker.count_failure("internal-error")
                self._notices.say("internal-error", f"{type(error).__name__}: {error}")
            except Exception:  # a logger that is broken or already taken down
                return None
            return None
        raise of_trainer

    def may_wait(self, module: _Module | None = None) -> bool:
        """Whether this thread is inside `lookup`, or has just had `module` from it.

        Who calls `lookup` expects to wait for other compilers, there or on entering what it returned.
        """
        if getattr(self._of_thread, "lookups", 0) > 0:
            return True
        if module is None:
            return False
        path = getattr(self._of_thread, "looked_up", None)
        return path is not None and _module_of_entry(os.path.dirname(path)) == module

    def _wrap_exists(self, original: _Method) -> _Method:
        @functools.wraps(original)
        def exists(cache: object, /, *args: Any, **kwargs: Any) -> Any:
            found = original(cache, *args, **kwargs)
            if not found and self._active and self.shielded(self._is_fetched, args, kwargs):
                found = original(cache, *args, **kwargs)
            if found and self._active:
                self.shielded(self._count_found, args, kwargs)
            return found

        return exists

    def _wrap_acquire(self, original: _Method) -> _Method:
        @functools.wraps(original)
        def hlo_acquire_lock(cache: Any, /, *args: Any, **kwargs: Any) -> Any:
            if not self._active:
                return original(cache, *args, **kwargs)
            result, before = self._take_turns(functools.partial(original, cache, *args, **kwargs), args, kwargs)
            try:
                self.shielded(self._acquired, args, kwargs, result, before)
            except BaseException:  # Ctrl-C: the caller will never hear that it holds the lock
                if result:
                    cache.hlo_release_lock(*args, **kwargs)
                raise
            return result

        return hlo_acquire_lock

    def _wrap_release(self, original: _Method) -> _Method:
        @functools.wraps(original)
        def hlo_release_lock(cache: object, /, *args: Any, **kwargs: Any) -> Any:
            # Before the lock goes: to claim too little is harmless.
            released = None
            try:
                released = self.shielded(self._released, args, kwargs)
            finally:  # whatever comes, Ctrl-C too: nobody else would let go of it
                result = original(cache, *args, **kwargs)
            if released is not None and self._active:
                module, lock = released
                self.shielded(self.asker.lock_released, module.root, module.name, lock)
            return result

        return hlo_release_lock

    def _wrap_lookup(self, original: _Method) -> _Method:
        of_thread = self._of_thread

        @functools.wraps(original)
        def lookup(cache: object, /, *args: Any, **kwargs: Any) -> Any:
            depth = getattr(of_thread, "lookups", 0)
            of_thread.lookups = depth + 1
            try:
                entry = original(cache, *args, **kwargs)
            finally:
                of_thread.lookups = depth
            of_thread.looked_up = self.shielded(_path_of_looked_up, entry)
            return entry

        return lookup

    def _wrap_try_lookup(self, original: _Method) -> _Method:
        of_thread = self._of_thread

        @functools.wraps(original)
        def try_lookup_for_compile(cache: object, /, *args: Any, **kwargs: Any) -> Any:
            of_thread.looked_up = None  # who calls this does not want to wait
            return original(cache, *args, **kwargs)

        return try_lookup_for_compile

    def _wait(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """How the wait for somebody else's lock ended; None where this caller may not wait, or nobody can tell."""
        module = _module_of_argument(args, kwargs)
        # For other threads too, but never for oneself.
        if module is None or getattr(self._of_thread, "holds", None) == module or not self.may_wait(module):
            return None
        if os.environ.get("NEFF_WAIT") == "0":
            return None
        started_s = time.monotonic()
        end = self.asker.wait_for_lock(
            module.root, module.name, is_there=lambda: self.shielded(_lock_of, args, kwargs) is not None
        )
        if end is not None and self._tally is not None:
            self._tally.waited(module.root, module.name, time.monotonic() - started_s)
        return end

    def _take_turns(
        self, try_once: Callable[[], Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, LockId | None]:
        """Try for the lock, waiting for others while this caller may and the daemon can tell.

        Returns what the last try did, and the lock that was there just before it.
        """
        while True:
            seen = before = self.shielded(_lock_of, args, kwargs)
            end = None if seen is None else self.shielded(self._wait, args, kwargs)
            if end is not None:
                before = self.shielded(_lock_of, args, kwargs)
            result = try_once()
            if result is False and end == READY:
                result = self._queue_up(try_once)
            if result is not False:
                return result, before
            after = self.shielded(_lock_of, args, kwargs)
            if end is None and (seen is not None or after is None):
                return result, before  # not ours to wait for: stock goes on as it would
            if end is not None and after == seen:
                self.shielded(self._waited_in_vain, args, kwargs)
                return result, before

    def _queue_up(self, try_once: Callable[[], Any]) -> Any:
        """All who waited take the lock one after the other: of a ready entry they hold it for a moment only."""
        for attempt in range(_TRIES):
            self.shielded(self.asker.pause, (1 + (os.getpid() + attempt) % 4) / 1000)
            result = try_once()
            if result is not False:
                return result
        return False

    def _waited_in_vain(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The very lock that should be gone is there: the daemon sees another directory than we do."""
        module = _module_of_argument(args, kwargs)
        if module is not None:
            self.asker.mute(module.root, module.name)

    def _is_fetched(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        path = _path_argument(args, kwargs)
        module = None if path is None else _module_of_mark(path)
        if module is None:
            return False
        is_ready = self.asker.is_ready(module.root, module.name, holding=module in self._held)
        if is_ready and self.used is not None:
            self.used.known(module.root, module.name)
        if not is_ready and self._tally is not None:
            self._tally.missed(module.root, module.name)
        return is_ready

    def _count_found(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        path = _path_argument(args, kwargs)
        module = None if path is None else _module_of_mark(path)
        if module is None:
            return
        if self.used is not None:
            self.used.found(module.root, module.name)
        if self._tally is None:
            return
        arrival = self.asker.arrivals.pop(module.name, None)
        if arrival is None:
            self._tally.local(module.root, module.name)
        else:
            self._tally.fetched(module.root, module.name, seconds_of(arrival.get("compile_s")))

    def _acquired(self, args: tuple[Any, ...], kwargs: dict[str, Any], result: object, before: LockId | None) -> None:
        module = _module_of_argument(args, kwargs)
        # None tells nothing of success: then the lock file must be new. Up to 2.14 there is none, so nothing is held.
        is_ours = bool(result) or (result is None and before is None)
        lock = _lock_of(args, kwargs) if is_ours else None
        if module is not None and lock is not None:
            self._held[module] = lock
            self._of_thread.holds = module
            if self._tally is not None:
                self._tally.lock_taken(module.root, module.name)
            self.asker.lock_taken(module.root, module.name, lock)

    def _released(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[_Module, LockId] | None:
        module = _module_of_argument(args, kwargs)
        lock = None if module is None else self._held.pop(module, None)
        self._of_thread.holds = None
        if module is not None and self._tally is not None:
            self._tally.lock_ends(module.root, module.name, is_ready=_is_ready(module))
        return None if module is None or lock is None else (module, lock)


class _Module(NamedTuple):
    root: str
    name: ModuleName


class _Patch(NamedTuple):
    cls: type
    name: str
    own: object  # what the class itself had under the name; None where it inherits
    wrapper: _Method

    def undo(self) -> None:
        if vars(self.cls).get(self.name) is not self.wrapper:
            return
        if self.own is None:
            delattr(self.cls, self.name)
        else:
            setattr(self.cls, self.name, self.own)


@functools.lru_cache(maxsize=4096)
def _module_of_mark(path: str) -> _Module | None:
    """The module whose ready mark `path` is, or None for every other file."""
    entry, _, file_name = path.rpartition("/")
    if file_name not in _MARKS:
        return None
    module = _module_of_entry(entry)
    return module if module is not None and file_name == ready_mark(module.name.namespace) else None


def _module_of_entry(entry: str) -> _Module | None:
    parent, _, key = entry.rpartition("/")
    url, _, namespace = parent.rpartition("/")
    root = local_path(url)
    if root is None or not is_module_key(key) or not is_namespace(namespace):
        return None
    return _Module(root, ModuleName(namespace, key))


def _module_of_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Module | None:
    """The module in whose entry the file lies that a cache method was called with."""
    path = _path_argument(args, kwargs)
    return None if path is None else _module_of_entry(os.path.dirname(path))


def _path_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """The one argument of these methods, however it was passed."""
    value = args[0] if args else next(iter(kwargs.values()), None)
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    return path if isinstance(path, str) else None


def _path_of_looked_up(entry: object) -> str | None:
    """Which module's that is, is asked only by who then has to wait: of a local hit every microsecond counts."""
    path = getattr(entry, "hlo_path", None)
    return path if isinstance(path, str) else None


def _lock_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> LockId | None:
    """The lock beside the file that a cache method was called with; None where there is none."""
    path = _path_argument(args, kwargs)
    if path is None:
        return None
    try:
        facts = os.lstat(path + ".lock")
    except OSError as error:
        pass_on(error)
        return None
    return LockId(facts.st_ino, facts.st_ctime_ns)


def _definer(cls: type, name: str) -> type:
    """The class whose own attribute `name` is."""
    return next((base for base in cls.__mro__ if name in vars(base)), cls)


def _is_ready(module: _Module) -> bool:
    namespace, key = module.name
    return os.path.exists(os.path.join(module.root, namespace, key, ready_mark(namespace)))


def _is_static(cls: type, name: str) -> bool:
    for base in cls.__mro__:
        if name in vars(base):
            return isinstance(vars(base)[name], (staticmethod, classmethod))
    return False
