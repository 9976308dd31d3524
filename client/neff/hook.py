"""The hook: libneuronxla's file cache asks the daemon before a graph is compiled.

It wraps methods of the class `CompileCacheFs`, because every user of the cache passes there: the factory is replaced
and put back by others, and optimum-neuron builds the class itself. Only a miss of a module's ready mark asks; after
"ready" the original method looks again, and what it says is what the caller gets.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from neff import forks
from neff.asking import Asker
from neff.cachedir import local_path
from neff.keys import ModuleName, is_module_key, is_namespace, ready_mark
from neff.notices import Notices

CACHE_MODULE = "libneuronxla.neuron_cc_cache"
CACHE_CLASS = "CompileCacheFs"

_Method = Callable[..., Any]
_Result = TypeVar("_Result")
_MARKS = ("model.done", "model.neff")


class Hook:
    """The wrapped methods and what they need to know of this process."""

    def __init__(self, asker: Asker, notices: Notices) -> None:
        self.asker = asker
        self._notices = notices
        self._active = True
        self._patches: list[_Patch] = []
        self._held: set[_Module] = set()
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
        wrappers = {
            "exists": self._wrap_exists,
            "hlo_acquire_lock": self._wrap_acquire,
            "hlo_release_lock": self._wrap_release,
            "lookup": self._wrap_lookup,
        }
        for name, wrap in wrappers.items():
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
        self.asker.close()

    def shielded(self, function: Callable[..., _Result], *args: Any) -> _Result | None:
        """Call our own code on behalf of the trainer: the one place where every failure of ours ends.

        Whatever it is, compiling without the daemon is better than a trainer that dies of its cache. Ctrl-C is not a
        failure and passes.
        """
        try:
            return function(*args)
        except Exception as error:
            try:
                self._notices.say("internal-error", f"{type(error).__name__}: {error}")
            except Exception:  # a logger that is broken or already taken down
                return None
        return None

    def may_wait(self) -> bool:
        """Whether this thread is inside `lookup`, whose callers expect to wait for other compilers."""
        return getattr(self._of_thread, "lookups", 0) > 0

    def _wrap_exists(self, original: _Method) -> _Method:
        @functools.wraps(original)
        def exists(cache: object, /, *args: Any, **kwargs: Any) -> Any:
            found = original(cache, *args, **kwargs)
            if found or not self._active:
                return found
            if self.shielded(self._is_fetched, args, kwargs):
                return original(cache, *args, **kwargs)
            return found

        return exists

    def _wrap_acquire(self, original: _Method) -> _Method:
        @functools.wraps(original)
        def hlo_acquire_lock(cache: object, /, *args: Any, **kwargs: Any) -> Any:
            if not self._active:
                return original(cache, *args, **kwargs)
            was_locked = self.shielded(_is_locked, args, kwargs)
            result = original(cache, *args, **kwargs)
            self.shielded(self._acquired, args, kwargs, result, was_locked)
            return result

        return hlo_acquire_lock

    def _wrap_release(self, original: _Method) -> _Method:
        @functools.wraps(original)
        def hlo_release_lock(cache: object, /, *args: Any, **kwargs: Any) -> Any:
            # Before the lock goes: to claim too little is harmless.
            self.shielded(self._released, args, kwargs)
            return original(cache, *args, **kwargs)

        return hlo_release_lock

    def _wrap_lookup(self, original: _Method) -> _Method:
        of_thread = self._of_thread

        @functools.wraps(original)
        def lookup(cache: object, /, *args: Any, **kwargs: Any) -> Any:
            depth = getattr(of_thread, "lookups", 0)
            of_thread.lookups = depth + 1
            try:
                return original(cache, *args, **kwargs)
            finally:
                of_thread.lookups = depth

        return lookup

    def _is_fetched(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        path = _path_argument(args, kwargs)
        module = None if path is None else _module_of_mark(path)
        if module is None:
            return False
        return self.asker.is_ready(module.root, module.name, holding=module in self._held)

    def _acquired(self, args: tuple[Any, ...], kwargs: dict[str, Any], result: object, was_locked: bool) -> None:
        module = _module_of_argument(args, kwargs)
        # None tells nothing of success: then the lock file must be new. Up to 2.14 there is none, so nothing is held.
        is_ours = bool(result) or (result is None and not was_locked)
        if module is not None and is_ours and _is_locked(args, kwargs):
            self._held.add(module)
            self.asker.lock_taken(module.root, module.name)

    def _released(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        module = _module_of_argument(args, kwargs)
        if module is not None:
            self._held.discard(module)


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


def _is_locked(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    path = _path_argument(args, kwargs)
    return path is not None and os.path.lexists(path + ".lock")


def _is_static(cls: type, name: str) -> bool:
    for base in cls.__mro__:
        if name in vars(base):
            return isinstance(vars(base)[name], (staticmethod, classmethod))
    return False
