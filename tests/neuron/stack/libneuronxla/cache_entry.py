"""One module in the cache (2.15 and later), built on the primitives of whatever cache it belongs to."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

import standin_switches as switches

from libneuronxla.logger import get_logger

if TYPE_CHECKING:
    from libneuronxla.neuron_cc_cache import CompileCache

HLO, FLAGS, NEFF, WRAPPED, DONE, LOG = (
    "model.hlo_module.pb",
    "compile_flags.json",
    "model.neff",
    "wrapped_neff.hlo",
    "model.done",
    "model.log",
)
_logger = get_logger("||NEURON_CACHE||")


class CompileCacheEntry:
    """As a context: locked while inside, unless the module is there already."""

    def __init__(self, cache: CompileCache, entry_dir: str, key: str) -> None:
        self.cache = cache
        self.key = key
        self.entry_dir = entry_dir
        self.hlo_path = f"{entry_dir}/{HLO}"
        self.flags_path = f"{entry_dir}/{FLAGS}"
        self.neff_path = f"{entry_dir}/{NEFF}"
        self.wrapped_neff_path = f"{entry_dir}/{WRAPPED}"
        self.done_path = f"{entry_dir}/{DONE}"
        self.log_path = f"{entry_dir}/{LOG}"
        self._locked = False

    @property
    def exists(self) -> bool:
        return self.cache.exists(self.done_path)

    def __enter__(self) -> CompileCacheEntry:
        if not self._locked and not self.exists:
            self.wait_for_lock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def wait_for_lock(self) -> None:
        """For ever: only the lock file counts, whoever made it and whatever became of them."""
        started, messages = time.monotonic(), 0
        while not self.try_lock():
            waited_s = time.monotonic() - started
            if waited_s >= (messages + 1) * switches.number("LOCK_MESSAGE_S", 60):
                messages += 1
                minutes = f"{waited_s / 60:.1f} minutes"
                _logger.info("Another process must be compiling %s, been waiting for: %s", self.key, minutes)
            time.sleep(switches.number("LOCK_PROBE_S", 0.02))

    def try_lock(self) -> bool:
        self._locked = self.cache.hlo_acquire_lock(self.hlo_path)
        return self._locked

    def _release(self) -> None:
        if self._locked:
            self.cache.hlo_release_lock(self.hlo_path)
            self._locked = False

    def log_exists(self) -> bool:
        return self.cache.exists(self.log_path)

    def download_log(self) -> str:
        return self.cache.download_file_to_string(self.log_path)

    def download_hlo(self, dst: str) -> None:
        self.cache.download_file(self.hlo_path, dst)

    def download_flags(self) -> str:
        return self.cache.download_file_to_string(self.flags_path)

    def download_neff(self, dst: str) -> None:
        self.cache.download_file(self.neff_path, dst)

    def download_wrapped_neff(self, dst: str) -> None:
        self.cache.download_file(self.wrapped_neff_path, dst)

    def upload_inputs(self, hlo_path: str, flags_str: str) -> None:
        self.cache.upload_file(self.hlo_path, hlo_path)
        self.cache.upload_string_to_file(self.flags_path, flags_str)

    def upload_neff(self, path: str, wrapped: str | None = None) -> None:
        """The result, the ready mark, and at once the end of the lock."""
        self.cache.upload_file(self.neff_path, path)
        if wrapped:
            self.upload_wrapped_neff(wrapped)
        self.cache.upload_string_to_file(self.done_path, "")
        self._release()

    def upload_wrapped_neff(self, path: str) -> None:
        self.cache.upload_file(self.wrapped_neff_path, path)

    def upload_log(self, text: str) -> None:
        self.cache.upload_string_to_file(self.log_path, text)
