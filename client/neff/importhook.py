"""Tell when a module has been imported, without importing it. The standard library's import system, nothing patched.

Every Python below `neff run` runs this file, most of them in vain: it imports nothing that is not loaded anyway.
"""

from __future__ import annotations

import sys
from _thread import _local

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


class PostImportFinder:
    """First on `sys.meta_path`: lets the other finders find the module and its own loader load it, then calls back.

    The callback runs before the import statement ends, so nobody sees the module without it. It must not raise.
    """

    def __init__(self, name: str, callback: Callable[[ModuleType], object]) -> None:
        self._name = name
        self._callback = callback
        self._searching = _local()

    def install(self) -> None:
        """Take the first place; a no-op if already there."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def uninstall(self) -> None:
        """Leave; a no-op if not there."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec with a loader that calls back; None for every other module."""
        # Another tool's finder of this kind asks the rest of the path too, which brings it back to us.
        if name != self._name or getattr(self._searching, "now", False):
            return None
        self._searching.now = True
        try:
            spec = self._find_elsewhere(name, path, target)
        finally:
            self._searching.now = False
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _CallingLoader(spec.loader, self._callback)  # type: ignore[assignment]
        return spec

    def _find_elsewhere(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find_spec = getattr(finder, "find_spec", None)
            if finder is self or find_spec is None:
                continue
            spec: ModuleSpec | None = find_spec(name, path, target)
            if spec is not None:
                return spec
        return None


class _CallingLoader:
    """Stands in for the real loader until the module is loaded."""

    def __init__(self, loader: Any, callback: Callable[[ModuleType], object]) -> None:
        self._loader = loader
        self._callback = callback

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        create: Callable[[ModuleSpec], ModuleType | None] | None = getattr(self._loader, "create_module", None)
        return None if create is None else create(spec)

    def exec_module(self, module: ModuleType) -> None:
        # From here on the module looks as if nobody had stood in between.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._callback(module)
