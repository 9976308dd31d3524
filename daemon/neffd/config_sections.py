"""The sections of the configuration that stand by themselves: their keys, limits and defaults."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from neffd import config_values as values


class Section(BaseModel):
    """Unknown keys are mistakes, and nothing changes after the start."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class UploadConfig(Section):
    """What is shared, and how it is gathered into batches."""

    quiet_s: Annotated[float, values.seconds(3600)] = 10.0
    max_delay_s: Annotated[float, values.seconds(86_400)] = Field(default=120.0, validate_default=True)
    max_bytes: values.SizeBytes = 2**30
    max_files: Annotated[int, values.whole_number(10_000)] = 90
    settle_s: Annotated[float, values.seconds(600)] = 2.0
    existing: Literal["never", "private-only", "always"] = "private-only"
    trusted_uids: values.Uids = None
    trusted_gids: values.Gids = None

    @field_validator("max_delay_s")
    @classmethod
    def _not_before_quiet(cls, max_delay_s: float, info: ValidationInfo) -> float:
        quiet_s = info.data.get("quiet_s", 0)
        if max_delay_s < quiet_s:
            raise ValueError(f"at least upload.quiet_s, which is {quiet_s:g}")
        return max_delay_s


class FetchConfig(Section):
    """How entries come in."""

    parallel: Annotated[int, values.whole_number(256)] = 40
    max_bytes_in_flight: values.SizeBytes = 2**30
    stall_s: Annotated[float, values.seconds(600)] = 5.0
    pending: bool = True


class RunsConfig(Section):
    """What is done for jobs as a whole."""

    prefetch: bool = True
    max_prefetch_bytes: values.SizeBytes = 10 * 2**30


class FailuresConfig(Section):
    """What is done about failed compiles."""

    set_aside: bool = True
    max_retries: Annotated[int, values.whole_number(1000)] = 3


class LocksConfig(Section):
    """What is done about the locks of those who compile."""

    wait: bool = True
    clear_stale: bool = True
    max_waiters_per_uid: Annotated[int, values.whole_number(1_000_000)] = 4096


class StoreConfig(Section):
    """How much a cache directory may hold, and what goes first."""

    max_bytes: values.OptionalSizeBytes = None
    max_entries: values.OptionalCount = None
    min_free_bytes: values.FreeBytes = None
    high_water: values.Percentage = 95
    low_water: values.Percentage = 85
    keep_used_s: Annotated[float, values.seconds(31_536_000)] = 600.0
    evict_unshared: bool = False
    old_versions_first: bool = False
    clear_workdirs_days: values.OptionalCount = None

    @field_validator("low_water")
    @classmethod
    def _below_high(cls, low_water: int, info: ValidationInfo) -> int:
        if low_water > info.data.get("high_water", 100):
            raise ValueError(f"at most store.high_water, which is {info.data['high_water']}")
        return low_water
