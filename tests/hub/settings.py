"""What can be changed while the server runs: delays, quotas, and which upload paths are offered."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

QuotaHeaders = Literal["ratelimit", "retry-after", "both"]
CasMode = Literal["http", "none"]


@dataclass
class Settings:
    """Switches of the server. A quota of None means no limit, and then no quota headers are sent."""

    latency_s: float = 0.0
    """Sleep before every request on either port."""
    commit_s: float = 0.0
    """How long a commit holds its branch; other commits to that branch get 409 meanwhile."""
    api_quota: int | None = None
    """Requests per token and window, for everything but `/resolve/` URLs."""
    resolver_quota: int | None = None
    """Requests per token and window for `/resolve/` URLs."""
    quota_window_s: float = 300.0
    quota_headers: QuotaHeaders = "ratelimit"
    """What a 429 carries: `RateLimit` with r=0, `Retry-After`, or both."""
    commit_quota: int | None = None
    """Landed commits per user and commit window."""
    commit_window_s: float = 3600.0
    cas: CasMode = "http"
    """`none` makes a Hub without Xet: no token routes, no xet hashes."""
    grants: bool = True
    """False answers 404 to xorb grants, as an older CAS does; clients then post xorbs directly."""
    xet_token_ttl_s: float = 3600.0
    lfs_part_bytes: int = 16 * 1024 * 1024
    """LFS objects above this size are uploaded in parts of this size."""

    def update(self, changes: Mapping[str, Any]) -> None:
        """Change several switches at once; nothing changes when one of them is wrong.

        Raises:
            ValueError: unknown name, or a value of the wrong kind.
        """
        for name, value in changes.items():
            _check(name, value)
        for name, value in changes.items():
            setattr(self, name, value)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


_CHOICES: dict[str, tuple[Any, ...]] = {"quota_headers": get_args(QuotaHeaders), "cas": get_args(CasMode)}
_OPTIONAL = {"api_quota", "resolver_quota", "commit_quota"}


def _check(name: str, value: Any) -> None:
    field = {field.name: field for field in dataclasses.fields(Settings)}.get(name)
    if field is None:
        raise ValueError(f"unknown setting: {name}")
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise ValueError(f"{name} must be one of {_CHOICES[name]}, not {value!r}")
    elif name == "grants":
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, not {value!r}")
    elif value is None and name in _OPTIONAL:
        return
    elif isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ValueError(f"{name} must be a number of at least 0, not {value!r}")
