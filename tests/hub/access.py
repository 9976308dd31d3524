"""Who is calling, and what that caller may see and change."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from aiohttp import web

from tests.hub.errors import HubError, repo_not_found
from tests.hub.files import read_json, write_json

Role = Literal["read", "write"]

NEED_LOGIN = "Invalid username or password."


@dataclass(frozen=True)
class Caller:
    """One request's identity; everything is None for an anonymous caller."""

    user: str | None = None
    role: Role | None = None
    token: str | None = None

    @property
    def anonymous(self) -> bool:
        return self.user is None


class Guarded(Protocol):
    """A repo or a bucket, as far as access is concerned."""

    @property
    def namespace(self) -> str: ...

    @property
    def private(self) -> bool: ...


GuardedT = TypeVar("GuardedT", bound=Guarded)


class Accounts:
    """The token table; the user of a token owns the namespace of the same name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.tokens: dict[str, tuple[str, Role]] = {}
        for token, (user, role) in (read_json(path) or {}).items():
            self.tokens[token] = (user, role)

    def token(self, user: str, role: Role) -> str:
        """Return this user's token of this role, made on first use and the same ever after."""
        for token, owner in self.tokens.items():
            if owner == (user, role):
                return token
        token = f"hf_{user}_{role}_{secrets.token_hex(8)}"
        self.tokens[token] = (user, role)
        write_json(self._path, self.tokens)
        return token

    def revoke(self, token: str) -> None:
        """Forget a token: it is unknown from now on."""
        self.tokens.pop(token, None)
        write_json(self._path, self.tokens)

    def caller(self, request: web.Request) -> Caller:
        """Return who sent the request.

        Raises:
            HubError: 401 for a token that the table does not hold.
        """
        header = request.headers.get("Authorization")
        if header is None:
            return Caller()
        token = header.removeprefix("Bearer ").strip()
        if token not in self.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        user, role = self.tokens[token]
        return Caller(user, role, token)


def require_login(caller: Caller) -> str:
    if caller.user is None:
        raise HubError(401, NEED_LOGIN)
    return caller.user


def require_visible(caller: Caller, target: GuardedT | None) -> GuardedT:
    """Return the target if the caller may know of it, else answer as if it did not exist."""
    if target is None or (target.private and target.namespace != caller.user):
        raise repo_not_found(anonymous=caller.anonymous)
    return target


def require_writable(caller: Caller, target: GuardedT | None) -> GuardedT:
    """Return the target if the caller may change it."""
    visible = require_visible(caller, target)
    user = require_login(caller)
    if caller.role != "write" or visible.namespace != user:
        raise HubError(403, "Forbidden: you must use a write token to upload to a repository")
    return visible


def require_namespace(caller: Caller, namespace: str) -> None:
    """Check that the caller may create something in the namespace."""
    user = require_login(caller)
    if caller.role != "write" or namespace != user:
        raise HubError(403, f'You don\'t have the rights to create a repo under the namespace "{namespace}"')
