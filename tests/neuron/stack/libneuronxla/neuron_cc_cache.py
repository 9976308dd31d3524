"""The compile cache: the primitives of its back-ends, and the entries on top of them."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Concatenate, Generic, NoReturn, ParamSpec, TypeVar, overload

import standin_switches as switches

from libneuronxla.cache_entry import DONE, HLO, LOG, NEFF, WRAPPED, CompileCacheEntry
from libneuronxla.cache_url import CacheUrl

__all__ = [
    "CACHE_STRUCTURE_INFO",
    "CacheUrl",
    "CompileCache",
    "CompileCacheEntry",
    "CompileCacheFs",
    "CompileCacheS3",
    "create_compile_cache",
]

CACHE_STRUCTURE_INFO = f"""<cache url>/neuronxcc-<version>/MODULE_<graph hash>+<flags hash>/
    {HLO}, compile_flags.json, {NEFF}, {DONE}, {WRAPPED} (some graphs), {LOG} (failures)"""

P = ParamSpec("P")
R = TypeVar("R")


class _Since215(Generic[R]):
    """A method that 2.14 does not have."""

    def __init__(self, function: Callable[..., R]) -> None:
        self._function = function

    @overload
    def __get__(self, instance: None, owner: type) -> Callable[..., R]: ...
    @overload
    def __get__(self, instance: CompileCache, owner: type) -> Callable[..., R]: ...
    def __get__(self, instance: Any, owner: type) -> Callable[..., R]:
        if switches.is_legacy():
            raise AttributeError(f"{owner.__name__!r} has no attribute {self._function.__name__!r}")
        if instance is None:
            return self._function
        return functools.partial(self._function, instance)


def _under_root_lock(
    method: Callable[Concatenate[CompileCacheFs, P], R],
) -> Callable[Concatenate[CompileCacheFs, P], R]:
    """2.14: every look at the cache opens and locks one file at its root."""

    @functools.wraps(method)
    def locked(self: CompileCacheFs, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.lock_dir():
            return method(self, *args, **kwargs)

    return locked


class CompileCache:
    """A back-end overrides the primitives; entries and lookups are the same for all."""

    cache_type = ""

    def __init__(self, cache_url: CacheUrl) -> None:
        self.cache_url = cache_url
        self.cache_path = cache_url.url.rstrip("/")

    @staticmethod
    def get_compiler_flags_hash(flags: list[str] | str) -> str:
        text = flags if isinstance(flags, str) else CompileCache.flags_text(flags)
        return hashlib.md5(text.encode()).hexdigest()[:8]

    @staticmethod
    def flags_text(flags: list[str]) -> str:
        return " ".join(flags) if switches.is_legacy() else json.dumps(flags)

    def get_cache_dir(self, model_hash: str, compile_flags_str: str) -> Any:
        """The entry's directory; up to 2.14 with the module key beside it."""
        key = f"MODULE_{model_hash}+{self.get_compiler_flags_hash(compile_flags_str)}"
        entry_dir = self.get_cache_dir_with_cache_key(key)
        return (entry_dir, key) if switches.is_legacy() else entry_dir

    def get_cache_dir_with_cache_key(self, key: str) -> str:
        return f"{self.cache_path}/neuronxcc-{switches.compiler_version()}/{key}"

    @_Since215
    def lookup(self, cache_key: str, flags: list[str] | str) -> CompileCacheEntry:
        """Blocks while another process compiles, here or on entering, as LOCK_IN_LOOKUP says."""
        text = flags if isinstance(flags, str) else self.flags_text(flags)
        entry_dir = self.get_cache_dir(cache_key, text)
        entry = CompileCacheEntry(self, entry_dir, entry_dir.rpartition("/")[2])
        if switches.on("LOCK_IN_LOOKUP") and not entry.exists:
            entry.wait_for_lock()
        return entry

    @_Since215
    def try_lookup_for_compile(self, hlo_path: str) -> CompileCacheEntry | None:
        """Never blocks: None when the module is done or being compiled."""
        entry_dir = hlo_path.rpartition("/")[0]
        entry = CompileCacheEntry(self, entry_dir, entry_dir.rpartition("/")[2])
        if entry.exists or self.exists(f"{hlo_path}.lock"):
            return None
        if switches.on("LOCK_IN_LOOKUP") and not entry.try_lock():
            return None
        return entry

    def exists(self, path: str) -> bool:
        raise NotImplementedError

    def download_file(self, src: str, dst: str) -> None:
        raise NotImplementedError

    def download_file_to_string(self, path: str, limit: int | None = None) -> str:
        raise NotImplementedError

    def upload_file(self, cache_path: str, src_path: str) -> None:
        raise NotImplementedError

    def upload_string_to_file(self, cache_path: str, data: str) -> None:
        raise NotImplementedError

    def remove(self, path: str) -> None:
        raise NotImplementedError

    def hlo_acquire_lock(self, h: str) -> bool:
        raise NotImplementedError

    def hlo_release_lock(self, h: str) -> None:
        raise NotImplementedError

    def get_hlos(self, failed_neff_str: str = "") -> tuple[set[str], set[str], set[str], set[str]]:
        raise NotImplementedError

    def clean(self) -> None:
        raise NotImplementedError

    def clear_locks(self) -> None:
        raise NotImplementedError

    def clear_neffs(self) -> None:
        raise NotImplementedError


class CompileCacheFs(CompileCache):
    cache_type = "fs"

    def lock_dir(self) -> AbstractContextManager[None]:
        return _root_lock(f"{self.cache_path}/lock") if switches.is_legacy() else nullcontext()

    @_under_root_lock
    def exists(self, path: str) -> bool:
        return os.path.exists(path)  # noqa: PTH110

    @_under_root_lock
    def download_file(self, src: str, dst: str) -> None:
        shutil.copyfile(src, dst)

    @_under_root_lock
    def download_file_to_string(self, path: str, limit: int | None = None) -> str:
        with Path(path).open("rb") as file:
            return file.read(-1 if limit is None else limit).decode(errors="replace")

    @_under_root_lock
    def upload_file(self, cache_path: str, src_path: str) -> None:
        _write_in_place(Path(cache_path), Path(src_path).read_bytes())

    @_under_root_lock
    def upload_string_to_file(self, cache_path: str, data: str) -> None:
        _write_in_place(Path(cache_path), data.encode())

    @_under_root_lock
    def remove(self, path: str) -> None:
        Path(path).unlink()

    def hlo_acquire_lock(self, h: str) -> bool:
        """One try. Up to 2.14 nothing keeps two processes from compiling the same module."""
        if switches.is_legacy():
            return True
        lock = Path(f"{h}.lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def hlo_release_lock(self, h: str) -> None:
        if not switches.is_legacy():
            Path(f"{h}.lock").unlink(missing_ok=True)

    @_under_root_lock
    def get_hlos(self, failed_neff_str: str = "") -> tuple[set[str], set[str], set[str], set[str]]:
        """Paths in four sets: to do, locked, done, failed."""
        sets: dict[str, set[str]] = {"todo": set(), "locked": set(), "done": set(), "failed": set()}
        version_dir = Path(self.get_cache_dir_with_cache_key("."))
        for hlo in version_dir.rglob(HLO):
            sets[_state(hlo, failed_neff_str)].add(str(hlo))
        return sets["todo"], sets["locked"], sets["done"], sets["failed"]

    @_under_root_lock
    def clean(self) -> None:
        shutil.rmtree(self.cache_path, ignore_errors=True)

    @_under_root_lock
    def clear_locks(self) -> None:
        self._unlink_all("*.lock")

    @_under_root_lock
    def clear_neffs(self) -> None:
        for name in (DONE, NEFF, WRAPPED, LOG):
            self._unlink_all(name)

    def _unlink_all(self, pattern: str) -> None:
        for path in Path(self.cache_path).rglob(pattern):
            path.unlink(missing_ok=True)


class CompileCacheS3(CompileCache):
    """Can be made; there is no store behind it."""

    cache_type = "s3"

    def _absent(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise RuntimeError(f"no S3 behind {self.cache_url.url}")

    exists = download_file = download_file_to_string = upload_file = upload_string_to_file = remove = _absent
    hlo_acquire_lock = hlo_release_lock = get_hlos = clean = clear_locks = clear_neffs = _absent


def create_compile_cache(cache_url: CacheUrl) -> CompileCache:
    return CompileCacheS3(cache_url) if cache_url.is_s3() else CompileCacheFs(cache_url)


@contextmanager
def _root_lock(path: str) -> Iterator[None]:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_in_place(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    chunks = int(switches.number("NEFF_WRITE_CHUNKS", 1)) if path.name == NEFF else 1
    size = max(1, -(-len(data) // chunks))
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(data), size):
            if start:
                time.sleep(switches.number("NEFF_WRITE_DELAY_S", 0.1))
            left = memoryview(data)[start : start + size]
            while left:  # a disk that is full takes a part, and says so only of the rest
                left = left[file.write(left) :]
        if chunks > 1:
            time.sleep(switches.number("NEFF_WRITE_DELAY_S", 0.1))


def _state(hlo: Path, failed_neff_str: str) -> str:
    neff = hlo.with_name(NEFF)
    if switches.is_legacy():
        failed = failed_neff_str.encode()
        if not neff.exists():
            return "todo"
        return "failed" if failed and neff.read_bytes().startswith(failed) else "done"
    if hlo.with_name(DONE).exists():
        return "done"
    if Path(f"{hlo}.lock").exists():
        return "locked"
    return "failed" if hlo.with_name(LOG).exists() else "todo"
