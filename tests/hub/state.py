"""Everything that the routes of both ports share."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from aiohttp import web

from tests.hub.access import Accounts, Caller
from tests.hub.blobs import BlobStore
from tests.hub.buckets import Bucket, BucketStore
from tests.hub.counters import Counters
from tests.hub.faults import Faults
from tests.hub.files import write_atomic
from tests.hub.ratelimit import RateLimits
from tests.hub.repos import Repo, RepoStore
from tests.hub.settings import Settings
from tests.hub.xet_store import XetStore

Scope = Literal["read", "write"]


class XetTokens:
    """Access tokens of the CAS: scope and expiry, signed, so that they outlive a restart."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            write_atomic(path, secrets.token_bytes(32))
        self._secret = path.read_bytes()

    def issue(self, scope: Scope, ttl_s: float) -> tuple[str, int]:
        """Return a token and its expiry in unix seconds."""
        expires_s = int(time.time() + ttl_s)
        stem = f"xet_{scope}_{expires_s}"
        return f"{stem}_{self._sign(stem)}", expires_s

    def scope(self, token: str) -> Scope | None:
        """Return the scope of a token; None if it is unknown or expired."""
        stem, _, signature = token.rpartition("_")
        if not hmac.compare_digest(signature.encode(), self._sign(stem).encode()):
            return None
        _, scope, expires_s = stem.split("_")
        if int(expires_s) <= time.time():
            return None
        return "write" if scope == "write" else "read"

    def _sign(self, stem: str) -> str:
        return hmac.new(self._secret, stem.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class Grant:
    """Leave to upload one xorb of this length."""

    xorb: str
    length_bytes: int


@dataclass
class Hub:
    """The server's state; what has to outlive a restart lies under `root`."""

    root: Path
    settings: Settings
    endpoint: str = ""
    """URL of the hub port, as clients know it."""
    cdn: str = ""
    """URL of the second port: contents, LFS uploads and the CAS."""
    faults: Faults = field(default_factory=Faults)
    counters: Counters = field(default_factory=Counters)
    grants: dict[str, Grant] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.accounts = Accounts(self.root / "tokens.json")
        self.repos = RepoStore(self.root / "repos")
        self.buckets = BucketStore(self.root / "buckets")
        self.blobs = BlobStore(self.root / "blobs")
        self.uploads = self.root / "uploads"
        self.xet = XetStore(self.root / "xet")
        self.xet_tokens = XetTokens(self.root / "xet-secret")
        self.limits = RateLimits(self.settings)

    @property
    def has_cas(self) -> bool:
        return self.settings.cas == "http"


HUB: web.AppKey[Hub] = web.AppKey("hub", Hub)


def hub_of(request: web.Request) -> Hub:
    return request.app[HUB]


def caller_of(request: web.Request) -> Caller:
    return hub_of(request).accounts.caller(request)


def repo_of(request: web.Request) -> Repo | None:
    """Return the repo that the route names: `{type}` is plural and absent for models without a prefix."""
    info = request.match_info
    repo_type = info.get("type", "models").removesuffix("s")
    return hub_of(request).repos.get(repo_type, info["namespace"], info["name"])


def bucket_of(request: web.Request) -> Bucket | None:
    info = request.match_info
    return hub_of(request).buckets.get(info["namespace"], info["name"])
