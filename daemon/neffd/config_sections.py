"""The sections of the configuration that stand by themselves: their keys, limits and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neffd import config_values as values
from neffd.config_keys import Section, key, list_of, optional
from neffd.config_values import one_of, seconds, size_bytes, true_or_false, whole_number


def _not_before_quiet(max_delay_s: float, before: Mapping[str, Any]) -> float:
    quiet_s = before.get("quiet_s", 0)
    if max_delay_s < quiet_s:
        raise ValueError(f"at least upload.quiet_s, which is {quiet_s:g}")
    return max_delay_s


def _below_high(low_water: int, before: Mapping[str, Any]) -> int:
    high_water = before.get("high_water", 100)
    if low_water > high_water:
        raise ValueError(f"at most store.high_water, which is {high_water}")
    return low_water


@dataclass(frozen=True, init=False)
class UploadConfig(Section):
    """What is shared, and how it is gathered into batches."""

    quiet_s: float = key(seconds(3600), 10.0)
    max_delay_s: float = key(seconds(86_400), 120.0, _not_before_quiet)
    max_bytes: int = key(size_bytes, 2**30)
    max_files: int = key(whole_number(10_000), 90)
    settle_s: float = key(seconds(600), 2.0)
    existing: str = key(one_of("never", "private-only", "always"), "private-only")
    trusted_uids: tuple[int, ...] | None = key(optional(list_of(values.uid, or_one=True)), None)
    trusted_gids: tuple[int, ...] | None = key(optional(list_of(values.gid, or_one=True)), None)


@dataclass(frozen=True, init=False)
class FetchConfig(Section):
    """How entries come in."""

    parallel: int = key(whole_number(256), 40)
    max_bytes_in_flight: int = key(size_bytes, 2**30)
    stall_s: float = key(seconds(600), 5.0)
    pending: bool = key(true_or_false, True)


@dataclass(frozen=True, init=False)
class RunsConfig(Section):
    """What is done for jobs as a whole."""

    prefetch: bool = key(true_or_false, True)
    max_prefetch_bytes: int = key(size_bytes, 10 * 2**30)


@dataclass(frozen=True, init=False)
class FailuresConfig(Section):
    """What is done about failed compiles."""

    set_aside: bool = key(true_or_false, True)
    max_retries: int = key(whole_number(1000), 3)


@dataclass(frozen=True, init=False)
class LocksConfig(Section):
    """What is done about the locks of those who compile."""

    wait: bool = key(true_or_false, True)
    clear_stale: bool = key(true_or_false, True)
    max_waiters_per_uid: int = key(whole_number(1_000_000), 4096)


@dataclass(frozen=True, init=False)
class StoreConfig(Section):
    """How much a cache directory may hold, and what goes first."""

    max_bytes: int | None = key(optional(size_bytes), None)
    max_entries: int | None = key(optional(values.count), None)
    min_free_bytes: int | None = key(optional(values.free_bytes), None)
    high_water: int = key(values.percentage, 95)
    low_water: int = key(values.percentage, 85, _below_high)
    keep_used_s: float = key(seconds(31_536_000), 600.0)
    evict_unshared: bool = key(true_or_false, False)
    old_versions_first: bool = key(true_or_false, False)
    clear_workdirs_days: int | None = key(optional(values.count), None)
